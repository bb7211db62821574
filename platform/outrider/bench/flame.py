"""A flame graph of one thread: stacks sampled by another thread, drawn as one SVG that needs nothing else."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from xml.sax.saxutils import escape

from outrider.errors import ConfigurationError

__all__ = ["Sampler", "write_flame"]

_WIDTH, _ROW = 1600, 17
_LEAST_SHARE = 0.0008
_PERIOD_S = 0.001
_HUES = {"outrider": 30, "outrider_kernels": 5, "torch": 200, "numpy": 260}


class Sampler:
    """Counts stacks, outermost frame first, of the thread that opens `sampling`.

    A sample waits for the interpreter's lock, so a call that holds it long is seen where it ends; compiled steps and
    torch's products release it.
    """

    def __init__(self) -> None:
        self.stacks: Counter[tuple[str, ...]] = Counter()

    @contextmanager
    def sampling(self, name: str) -> Iterator[None]:
        """Samples the calling thread under the root frame `name` until the context ends."""
        thread, done = threading.get_ident(), threading.Event()

        def sample() -> None:
            while not done.wait(_PERIOD_S):
                frame = sys._current_frames().get(thread)
                if frame is not None:
                    self.stacks[(name, *_frames(frame))] += 1

        worker = threading.Thread(target=sample, name="sampler", daemon=True)
        worker.start()
        try:
            yield
        finally:
            done.set()
            worker.join()


def _frames(frame: FrameType | None) -> list[str]:
    """module:function from the outermost frame inwards; what calls a bench, and the bench itself, left out."""
    names = []
    while frame is not None:
        names.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_name}")
        frame = frame.f_back
    names.reverse()
    bench = [place for place, name in enumerate(names) if name.startswith("outrider.bench")]
    return [name for name in names[bench[0] if bench else 0 :] if not name.startswith("outrider.bench")]


def write_flame(file: Path, stacks: Counter[tuple[str, ...]], title: str) -> None:
    """Draw the samples; a box's width is its share. Raises ConfigurationError when the file cannot be written."""
    total = sum(stacks.values())
    boxes = list(_boxes(sorted(stacks.items()), total)) if total else []
    depth = 1 + max((row for row, *_ in boxes), default=0)
    height = (depth + 3) * _ROW
    day = time.strftime("%Y-%m-%d")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="monospace" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="8" y="16" font-size="13">{escape(title)}, {total} samples, {day}</text>',
    ]
    for row, left, share, name in boxes:
        x, width, y = left * _WIDTH, share * _WIDTH, height - (row + 1) * _ROW
        hue = _HUES.get(name.split(".")[0].split(":")[0], 90)
        label = name if len(name) * 6.7 < width else name.rpartition(":")[2]
        shown = escape(label[: int(width / 6.7)]) if width > 20 else ""
        lines += [
            f"<g><title>{escape(name)} {share:.1%}</title>",
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 1}" '
            f'fill="hsl({hue},75%,{72 + 10 * (row % 2)}%)" stroke="#fff"/>',
            f'<text x="{x + 3:.1f}" y="{y + 12}">{shown}</text></g>',
        ]
    try:
        file.write_text("\n".join([*lines, "</svg>\n"]), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}", param="flame") from error


def _boxes(
    stacks: list[tuple[tuple[str, ...], int]], total: int, row: int = 0, left: float = 0.0
) -> Iterator[tuple[int, float, float, str]]:
    """(row, left, share, name) of every frame that is wide enough; stacks that share their first `row` frames."""
    groups: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for stack, count in stacks:
        if len(stack) > row:
            groups.setdefault(stack[row], []).append((stack, count))
    for name, members in groups.items():
        share = sum(count for _, count in members) / total
        if share >= _LEAST_SHARE:
            yield row, left, share, name
            yield from _boxes(members, total, row + 1, left)
        left += share
