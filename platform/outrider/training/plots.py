"""PNG plots of a drafter's training and evaluation; matplotlib comes with the extra `train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outrider.errors import MissingExtra

__all__ = [
    "Panels",
    "Point",
    "block_size_plot",
    "conditional_plot",
    "depth_plot",
    "loss_plot",
    "reliability_plot",
    "threshold_plot",
]

COLOURS = (
    "#1f6fb4", "#d95f02", "#2a9d54", "#7b52ab", "#c23b6b", "#777777", "#b8860b", "#17a2b8", "#000000", "#8c564b",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*", "h", "<")
RELIABILITY_COLOURS = (COLOURS[1], COLOURS[0], COLOURS[2])
FEWEST_ROUNDS = 30
FEWEST_IN_BIN = 10


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


Point = tuple[float, float, float, float]
"""(x, y, low, high)."""
Panels = Mapping[str, Mapping[str, Sequence[Point]]]
"""Title → label of a line → its points."""


def conditional_plot(content: Mapping[str, Any], titles: Mapping[str, str], path: Path) -> None:
    """Acceptance of slot k given all before it: a row per temperature, a panel per domain (the paper's Figure 2).

    Slots that few rounds reached are left out.
    """
    temperatures = content["temperatures"]
    domains = sorted({domain for part in temperatures.values() for each in part["methods"].values()
                      for domain in each["domains"]})  # fmt: skip
    with canvas(path, len(domains), len(temperatures), 3.9, 3.0) as axes:
        for row, (temperature, part) in zip(axes, temperatures.items(), strict=True):
            for axis, domain in zip(row, domains, strict=True):
                widest = 1
                for place, (name, each) in enumerate(part["methods"].items()):
                    pairs = _reached(each["domains"].get(domain))
                    if pairs:
                        widest = max(widest, pairs[-1][0])
                        style = {"color": _colour(place), "marker": MARKERS[place % len(MARKERS)], "markersize": 4}
                        axis.plot(*zip(*pairs, strict=True), label=titles.get(name) or name, linewidth=1.6, **style)
                axis.set_title(f"{domain}, T = {temperature}")
                axis.set_xticks(range(1, widest + 1))
                axis.set_ylim(0, 102)
            row[0].set_ylabel("conditional acceptance (%)")
        for axis in axes[-1]:
            axis.set_xlabel("slot k of the block")
        _legend_below(axes)


def _reached(figures: Mapping[str, Any] | None) -> list[tuple[int, float]]:
    """(slot, conditional acceptance in percent) where it rests on enough rounds."""
    if figures is None:
        return []
    slots = zip(figures["conditional"], figures["conditional_rounds"], strict=True)
    return [
        (slot, 100 * share)
        for slot, (share, count) in enumerate(slots, start=1)
        if share is not None and count >= FEWEST_ROUNDS
    ]


def block_size_plot(panels: Panels, path: Path) -> bool:
    """τ against γ (the paper's Figure 4), lines of drafters alike in all else; False, and no file, when no line has two
    points.
    """
    return _lines_plot(panels, path, "block size γ")


def depth_plot(panels: Panels, path: Path) -> bool:
    """τ against decoder layers; False, and no file, when all drafters are equally deep."""
    depths = {point[0] for each in panels.values() for points in each.values() for point in points}
    return len(depths) > 1 and _lines_plot(panels, path, "drafter layers", single_points=True)


def _lines_plot(panels: Panels, path: Path, label: str, single_points: bool = False) -> bool:
    fewest = 1 if single_points else 2
    kept = {
        title: {name: points for name, points in each.items() if len({p[0] for p in points}) >= fewest}
        for title, each in panels.items()
    }
    if not any(kept.values()):
        return False
    names = sorted({name for each in kept.values() for name in each})
    columns = min(4, len(kept))
    rows = -(-len(kept) // columns)
    with canvas(path, columns, rows, 3.4, 3.1) as axes:
        for axis in axes.flat[len(kept) :]:
            axis.set_axis_off()
        for axis, (title, each) in zip(axes.flat, kept.items(), strict=False):
            for name, points in each.items():
                xs, ys, lows, highs = zip(*points, strict=True)
                spread = [[y - low for y, low in zip(ys, lows, strict=True)],
                          [high - y for y, high in zip(ys, highs, strict=True)]]  # fmt: skip
                place = names.index(name)
                nudge = (place - (len(names) - 1) / 2) * 0.012 * (max(xs) - min(xs) or 1)
                axis.errorbar([x + nudge for x in xs], ys, yerr=spread, label=name, color=_colour(place),
                              marker=MARKERS[place % len(MARKERS)], markersize=5, capsize=3, linewidth=1.6)  # fmt: skip
            axis.set_title(title)
            axis.set_xticks(sorted({point[0] for points in each.values() for point in points}))
            axis.margins(x=0.15, y=0.15)
        for axis in axes[-1]:
            axis.set_xlabel(label)
        for row in axes:
            row[0].set_ylabel("τ (tokens/round)")
        _legend_below(axes)
    return True


def threshold_plot(sweep: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Draft tokens per round, accepted and rejected, and the share accepted, against the confidence at which blocks are
    cut: a row per temperature, a panel per domain (the paper's Figure 5).
    """
    domains = sorted({domain for each in sweep.values() for domain in each})
    with canvas(path, len(domains), len(sweep), 3.9, 3.0) as axes:
        for row, (temperature, each) in zip(axes, sweep.items(), strict=True):
            for axis, domain in zip(row, domains, strict=True):
                points = each.get(domain, ())
                at = [point["threshold"] for point in points]
                accepted, rejected = ([point[part] for point in points] for part in ("accepted", "rejected"))
                axis.bar(at, accepted, 0.07, color=COLOURS[2], alpha=0.45, label="accepted")
                axis.bar(at, rejected, 0.07, accepted, color="white", edgecolor="#999999", hatch="////",
                         linewidth=0.6, label="rejected")  # fmt: skip
                axis.set_title(f"{domain}, T = {temperature}")
                share = axis.twinx()
                shown = [(point["threshold"], 100 * point["accepted_per_verified"]) for point in points
                         if point["accepted_per_verified"] is not None]  # fmt: skip
                if shown:
                    share.plot(*zip(*shown, strict=True), color=COLOURS[0], marker="o", markersize=4)
                    axis.plot([], [], color=COLOURS[0], marker="o", markersize=4, label="accepted ÷ verified")
                share.set_ylim(0, 102)
                share.grid(visible=False)
                if axis is row[-1]:
                    share.set_ylabel("accepted ÷ verified (%)")
            row[0].set_ylabel("draft tokens per round")
        for axis in axes[-1]:
            axis.set_xlabel("confidence threshold")
        _legend_below(axes)


def reliability_plot(figures: Mapping[str, Any], path: Path) -> None:
    """Share of accepted prefixes against predicted survival, before and after, for some slots; one row per class.

    Grey bars say where the rounds are after the temperatures (the paper's Figure 6); a bin with few has no point.
    `figures` has by class "temperatures" and the states "before", "after" and perhaps "mapped".
    """
    slots = max(len(each["temperatures"]) for each in figures.values())
    shown = [slot for slot in (1, 3, 5, 7, 11, 15) if slot <= slots]
    with canvas(path, len(shown), len(figures), 2.9, 3.1) as axes:
        for row, (kind, each) in zip(axes, figures.items(), strict=True):
            for axis, slot in zip(row, shown, strict=True):
                axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
                _histogram(axis, each["after"]["reliability"][slot - 1])
                for colour, when in zip(RELIABILITY_COLOURS, ("before", "after", "mapped"), strict=True):
                    if when not in each:
                        continue
                    points = [point for point in each[when]["reliability"][slot - 1] if point[2] >= FEWEST_IN_BIN]
                    error = each[when]["ece"][slot - 1]
                    label = f"{when}: ECE –" if error is None else f"{when}: ECE {100 * error:.1f} %"
                    if points:
                        chance, share, _ = zip(*points, strict=True)
                        axis.plot(chance, share, color=colour, linewidth=1.3, marker="o", markersize=3.5, label=label)
                axis.set_title(f"{kind}, slot {slot}")
                axis.set_xlim(-0.03, 1.03)
                axis.set_ylim(-0.03, 1.03)
                axis.set_aspect("equal")
                axis.legend(frameon=False, loc="upper left", fontsize=8, markerscale=0.6, handletextpad=0.2)
            row[0].set_ylabel("share accepted")
        for axis in axes[-1]:
            axis.set_xlabel("predicted survival")


def _histogram(axis: Any, points: Sequence[tuple[float, float, int]]) -> None:
    """How many rounds stand where, the fullest bin a third of the axis high."""
    if points:
        most = max(count for _, _, count in points)
        heights = [count / most / 3 for _, _, count in points]
        axis.bar([chance for chance, _, _ in points], heights, 0.05, color="#dddddd", zorder=0)


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
