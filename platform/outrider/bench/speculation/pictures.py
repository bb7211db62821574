"""The benchmark's pictures, as SVG; matplotlib comes with the extra `train`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outrider.bench.speculation.arms import FIXED_1, NONE, label
from outrider.bench.speculation.figures import ANCHORS, Figures
from outrider.bench.speculation.frontier import Point
from outrider.bench.speculation.grid import MIXED, Cell, Grid
from outrider.errors import MissingExtra

__all__ = ["budget_picture", "frontier_picture", "require_matplotlib", "spread_out"]

_OTHERS = "#a0a0a0"
_COLOURS = {NONE: "#222222", FIXED_1: "#d95f02", "asynchronous": "#1f6fb4", "constrained": "#2a9d54"}


def require_matplotlib() -> Any:
    """Its pyplot, drawing into files. Raises MissingExtra without it."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("pictures need matplotlib; `pip install 'outrider[train]'`") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


@contextmanager
def _canvas(file: Path, width: float, height: float) -> Iterator[Any]:
    """Axes of a figure that is written to `file` afterwards; its text stays text."""
    pyplot = require_matplotlib()
    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.alpha": 0.25, "svg.fonttype": "none", "svg.hashsalt": "outrider"}  # fmt: skip
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        yield axes
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)


def frontier_picture(figures: Figures, grid: Grid, temperature: float, file: Path) -> None:
    """Throughput over the speed of one user, medians; a point per concurrency, the anchors as dashed lines."""
    with _canvas(file, 8.4, 5.2) as axes:
        from matplotlib import ticker

        ends = []
        for arm in _front_last(grid.arms):
            points = _medians(figures, grid, temperature, arm)
            if not points:
                continue
            style = _style(arm)
            axes.plot([speed for speed, _ in points], [rate for _, rate in points], "o-", **style)
            ends.append((points[-1], label(arm), style["color"]))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_ylim(bottom=0)
        _label_ends(axes, ends, left=True)
        at = figures.anchored(FIXED_1, temperature, grid.concurrencies, 1.0) if FIXED_1 in grid.arms else None
        if at is not None:
            for share in ANCHORS:
                speed = share * at.speed.median
                axes.axvline(speed, color=_COLOURS[FIXED_1], linestyle=(0, (4, 3)), linewidth=1, zorder=0)
                axes.annotate(f"{share:.0%} of fixed 1 alone", (speed, 0.0), xycoords=("data", "axes fraction"),
                              xytext=(3, 4), textcoords="offset points", color=_COLOURS[FIXED_1], fontsize=8,
                              rotation=90, va="bottom")  # fmt: skip
        widths = ", ".join(map(str, grid.concurrencies))
        axes.set_xlabel(f"tokens/s of one user (median; from right to left {widths} at a time)")
        axes.set_ylabel("tokens/s of all")
        axes.set_title(f"Throughput against the speed a user sees, mixed domains, T = {temperature:g}", loc="left")


def budget_picture(figures: Figures, grid: Grid, temperature: float, file: Path) -> None:
    """Verified rows per request and round over concurrency, anchor included: 1 is plain decoding."""
    with _canvas(file, 8.4, 4.4) as axes:
        ends = []
        for arm in _front_last(grid.arms):
            cells = [(n, figures.spread(Cell(MIXED, temperature, n), arm, lambda run: run.rows_per_round))
                     for n in grid.concurrencies]  # fmt: skip
            points = [(float(n), spread) for n, spread in cells if spread is not None]
            if not points:
                continue
            style = _style(arm)
            axes.plot([n for n, _ in points], [s.median for _, s in points], "o-", **style)
            ends.append(((points[-1][0], points[-1][1].median), label(arm), style["color"]))
        axes.set_xscale("log", base=2)
        axes.set_xticks(grid.concurrencies, [str(n) for n in grid.concurrencies])
        axes.set_ylim(bottom=0)
        _label_ends(axes, ends, left=False)
        axes.set_xlabel("requests at a time")
        axes.set_ylabel("verified rows per request and round")
        axes.set_title(f"Verification budget, mixed domains, T = {temperature:g}", loc="left")


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Places moved as little as it takes, in their order, to be `gap` apart; none below the lowest."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, place in itertools.pairwise(order):
        moved[place] = max(moved[place], moved[before] + gap)
    return moved


def _label_ends(axes: Any, ends: Sequence[tuple[Point, str, str]], *, left: bool) -> None:
    """Names beside the lines' last points, apart from one another, with room made for them."""
    if not ends:
        return
    xs = [x for (x, _), _, _ in ends]
    low, high = axes.get_xlim()
    low, high = (min(xs) * (min(xs) / high) ** 0.3, high) if left else (low, max(xs) * (max(xs) / low) ** 0.2)
    axes.set_xlim(low, high)
    bottom, top = axes.get_ylim()
    gap = (top - bottom) / 24
    edge = min(xs) if left else max(xs)
    ys = spread_out([y for (_, y), _, _ in ends], gap)
    axes.set_ylim(bottom, max(top, max(ys) + gap))
    for ((x, y), name, colour), at in zip(ends, ys, strict=True):
        axes.annotate(
            name, (x, y), xytext=(edge / 1.12 if left else edge * 1.08, at), textcoords="data", color=colour,
            fontsize=9, ha="right" if left else "left", va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkB": 3, "shrinkA": 1},
        )  # fmt: skip


def _medians(figures: Figures, grid: Grid, temperature: float, arm: str) -> list[Point]:
    """(one user's speed, everybody's) at each concurrency there is, ascending in concurrency."""
    points = []
    for count in grid.concurrencies:
        cell = Cell(MIXED, temperature, count)
        speed, rate = (figures.spread(cell, arm, of) for of in (lambda run: run.user_rate, lambda run: run.rate))
        if speed is not None and rate is not None and speed.median > 0:
            points.append((speed.median, rate.median))
    return points


def _front_last(arms: Sequence[str]) -> list[str]:
    """What is drawn last lies on top: the arms in colour."""
    return sorted(arms, key=lambda arm: list(_COLOURS).index(arm) if arm in _COLOURS else -1)


def _style(arm: str) -> dict[str, Any]:
    front = arm in _COLOURS
    return {
        "color": _COLOURS.get(arm, _OTHERS),
        "linewidth": 2.0 if front else 1.0,
        "markersize": 4.5 if front else 2.5,
    }
