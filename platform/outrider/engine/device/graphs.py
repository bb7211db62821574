"""Work that is captured once per shape and replayed: one launch instead of hundreds.

Without a CUDA device the same work is simply called, so that what a capture may not do (allocate by value, read a
device value, change its inputs' addresses) is all that differs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

__all__ = ["Graphs"]

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_CALLS_BEFORE = 2
"""Calls of a shape before it is captured: they compile kernels and let libraries choose, and a shape that is met once
is not worth a graph.
"""


class Graphs:
    """Captures by key, of one device and stream. Results of a replay lie where the capture put them.

    The work must give the same when it is run twice: a capture comes after a run of it on a stream of its own. All
    captures share one pool of memory: they run one after another, never at once.
    """

    def __init__(self, device: torch.device, *, enabled: bool = True) -> None:
        self._captures = enabled and device.type == "cuda"
        self._device = device
        self._kept: dict[Hashable, tuple[torch.cuda.CUDAGraph, object]] = {}
        self._met: Counter[Hashable] = Counter()
        self._pool: Any = None
        self.captured = 0

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self) -> None:
        """Addresses that captures read have changed."""
        self._kept.clear()

    def run(self, key: Hashable, work: Callable[[], _Result]) -> _Result:
        """The work's result. It must read and write the same addresses whenever the key is the same."""
        if not self._captures:
            return work()
        kept = self._kept.get(key)
        if kept is None:
            self._met[key] += 1
            if self._met[key] <= _CALLS_BEFORE:
                return work()
            kept = self._kept[key] = self._capture(work)
        kept[0].replay()
        return kept[1]  # type: ignore[return-value]

    def _capture(self, work: Callable[[], _Result]) -> tuple[torch.cuda.CUDAGraph, _Result]:
        current = torch.cuda.current_stream(self._device)
        beside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            work()
        current.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=beside):
            result = work()
        self._pool = graph.pool()
        self.captured += 1
        _log.debug("captured a graph, the %dth", self.captured)
        return graph, result
