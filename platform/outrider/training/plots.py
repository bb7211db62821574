"""PNG plots of a drafter's training and evaluation; matplotlib comes with the extra `train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outrider.errors import MissingExtra

__all__ = ["block_size_plot", "conditional_plot", "depth_plot", "loss_plot", "reliability_plot"]

COLOURS = (
    "#1f6fb4", "#d95f02", "#2a9d54", "#7b52ab", "#c23b6b", "#777777", "#b8860b", "#17a2b8", "#000000", "#8c564b",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*", "h", "<")
RELIABILITY_COLOURS = (COLOURS[1], COLOURS[0], COLOURS[2])
FEWEST_ROUNDS = 30


@contextmanager
def canvas(path: Path, columns: int, rows: int, width: float, height: float) -> Iterator[Any]:
    """Axes [rows, columns] of a figure that is written to `path` afterwards. Raises MissingExtra without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("plots need matplotlib; `pip install 'outrider[train]'`") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.alpha": 0.3, "axes.axisbelow": True}  # fmt: skip
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
        )
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        pyplot.close(figure)


def loss_plot(lines: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss on the left, agreement with the target on the right, over steps; faint raw values under running means."""
    steps = [line["step"] for line in lines]
    with canvas(path, 2, 1, 5.2, 3.6) as axes:
        parts = (
            ("loss", "weighted total"), ("surprise", "cross-entropy (nats)"), ("confidence", "confidence BCE (nats)")
        )  # fmt: skip
        for axis, names in zip(axes[0], (parts, (("overlap", "1 − TV"), ("match", "match probability"))), strict=True):
            for colour, (name, label) in zip(COLOURS, names, strict=False):
                if lines and name in lines[0]:
                    values = [line[name] for line in lines]
                    axis.plot(steps, values, color=colour, alpha=0.18, linewidth=0.7)
                    axis.plot(steps, _running_mean(values), color=colour, label=label, linewidth=1.6)
            axis.set_xlabel("step")
            axis.legend(frameon=False)
        axes[0][0].set_ylabel("loss")
        axes[0][0].set_ylim(bottom=0)
        axes[0][1].set_ylabel("mean over slots")


def _running_mean(values: Sequence[float]) -> list[float]:
    """Over a fiftieth of the run, centred."""
    half = max(1, len(values) // 100)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


Points = Sequence[tuple[float, float, float, float]]
"""(x, y, low, high)."""


def conditional_plot(content: Mapping[str, Any], titles: Mapping[str, str], path: Path) -> None:
    """Acceptance of slot k given all before it, a panel per temperature; slots that few rounds reached are left out."""
    temperatures = content["temperatures"]
    with canvas(path, len(temperatures), 1, 5.4, 3.9) as axes:
        for axis, (temperature, part) in zip(axes[0], temperatures.items(), strict=True):
            widest = 1
            for place, (name, each) in enumerate(part["methods"].items()):
                if "all" not in each:
                    continue
                figures = each["all"]
                pairs = [
                    (slot, 100 * share)
                    for slot, (share, count) in enumerate(
                        zip(figures["conditional"], figures["conditional_rounds"], strict=True), start=1
                    )
                    if share is not None and count >= FEWEST_ROUNDS
                ]
                if pairs:
                    widest = max(widest, pairs[-1][0])
                    style = {"color": _colour(place), "marker": MARKERS[place % len(MARKERS)], "markersize": 4}
                    axis.plot(*zip(*pairs, strict=True), label=titles.get(name) or name, linewidth=1.6, **style)
            axis.set_title(f"temperature {temperature}")
            axis.set_xlabel("slot k of the block")
            axis.set_xticks(range(1, widest + 1))
            axis.set_ylim(0, 102)
        axes[0][0].set_ylabel("conditional acceptance (%)")
        _legend_below(axes)


def block_size_plot(families: Mapping[str, Mapping[str, Points]], path: Path) -> bool:
    """Macro τ against γ, lines of drafters alike in all else; False, and no file, when no line has two points."""
    return _lines_plot(families, path, "block size γ")


def depth_plot(families: Mapping[str, Mapping[str, Points]], path: Path) -> bool:
    """Macro τ against decoder layers; False, and no file, when all drafters are equally deep."""
    depths = {point[0] for each in families.values() for points in each.values() for point in points}
    return len(depths) > 1 and _lines_plot(families, path, "drafter layers", single_points=True)


def _lines_plot(
    families: Mapping[str, Mapping[str, Points]], path: Path, label: str, single_points: bool = False
) -> bool:
    fewest = 1 if single_points else 2
    kept = {
        temperature: {name: points for name, points in each.items() if len({p[0] for p in points}) >= fewest}
        for temperature, each in families.items()
    }
    if not any(kept.values()):
        return False
    names = sorted({name for each in kept.values() for name in each})
    with canvas(path, len(kept), 1, 5.0, 3.9) as axes:
        for axis, (temperature, each) in zip(axes[0], kept.items(), strict=True):
            for name, points in each.items():
                xs, ys, lows, highs = zip(*points, strict=True)
                spread = [[y - low for y, low in zip(ys, lows, strict=True)],
                          [high - y for y, high in zip(ys, highs, strict=True)]]  # fmt: skip
                place = names.index(name)
                nudge = (place - (len(names) - 1) / 2) * 0.012 * (max(xs) - min(xs) or 1)
                axis.errorbar([x + nudge for x in xs], ys, yerr=spread, label=name, color=_colour(place),
                              marker=MARKERS[place % len(MARKERS)], markersize=5, capsize=3, linewidth=1.6)  # fmt: skip
            axis.set_title(f"temperature {temperature}")
            axis.set_xlabel(label)
            axis.set_xticks(sorted({point[0] for points in each.values() for point in points}))
            axis.margins(x=0.15, y=0.15)
        axes[0][0].set_ylabel("acceptance length τ (tokens/round)")
        _legend_below(axes)
    return True


def reliability_plot(figures: Mapping[str, Any], path: Path) -> None:
    """Share of accepted prefixes against predicted survival, before and after, for some slots; one row per class.

    `figures` has by class "temperatures" and the states "before", "after" and perhaps "mapped".
    """
    slots = max(len(each["temperatures"]) for each in figures.values())
    shown = [slot for slot in (1, 3, 5, 7, 11, 15) if slot <= slots]
    with canvas(path, len(shown), len(figures), 2.9, 3.1) as axes:
        for row, (kind, each) in zip(axes, figures.items(), strict=True):
            for axis, slot in zip(row, shown, strict=True):
                axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
                for colour, when in zip(RELIABILITY_COLOURS, ("before", "after", "mapped"), strict=True):
                    if when not in each:
                        continue
                    points = each[when]["reliability"][slot - 1]
                    total = sum(count for _, _, count in points) or 1
                    error = each[when]["ece"][slot - 1]
                    label = f"{when}: ECE –" if error is None else f"{when}: ECE {100 * error:.1f} %"
                    if points:
                        chance, share, counts = zip(*points, strict=True)
                        axis.plot(chance, share, color=colour, linewidth=1.3)
                        sizes = [12 + 110 * count / total for count in counts]
                        axis.scatter(chance, share, s=sizes, color=colour, label=label, alpha=0.75)
                axis.set_title(f"{kind}, slot {slot}")
                axis.set_xlim(-0.03, 1.03)
                axis.set_ylim(-0.03, 1.03)
                axis.set_aspect("equal")
                axis.legend(frameon=False, loc="upper left", fontsize=8, markerscale=0.6, handletextpad=0.2)
            row[0].set_ylabel("share accepted")
        for axis in axes[-1]:
            axis.set_xlabel("predicted survival")


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _legend_below(axes: Any) -> None:
    """One legend for all panels, outside of them, so that it hides nothing."""
    found: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = min(3, len(found)) if len(axes[0]) > 1 else min(2, len(found))
    axes[0][0].figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=max(1, columns), frameon=False, fontsize=9
    )
