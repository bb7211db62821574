"""PNG plots of a drafter's training and evaluation; matplotlib comes with the extra `train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outrider.errors import MissingExtra

__all__ = ["loss_plot"]

COLOURS = ("#1f6fb4", "#d95f02", "#2a9d54", "#7b52ab", "#c23b6b", "#777777")


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
