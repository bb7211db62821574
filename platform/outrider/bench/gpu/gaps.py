"""When a GPU had nothing to do, from the profiler's record of its kernels and copies."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

__all__ = ["Idle", "idle", "profiled"]

_WORK: Final = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True, slots=True)
class Idle:
    """Seconds from the first piece of GPU work to the end of the last, and what of them no work ran in.

    between_s: gaps between work of different launches, in which the device waits for the host; within_s: gaps between
    the nodes of one graph, which are the device's own.
    """

    span_s: float
    between_s: float
    within_s: float

    @property
    def host_share(self) -> float:
        """Of the span, what the device waited for the host."""
        return self.between_s / self.span_s if self.span_s else 0.0

    @property
    def share(self) -> float:
        """Of the span, what nothing ran in."""
        return (self.between_s + self.within_s) / self.span_s if self.span_s else 0.0


def idle(events: Iterable[Mapping[str, Any]]) -> Idle | None:
    """From a Chrome trace's events (`ts` and `dur` in µs, `cat`, `args.correlation`); None without GPU work.

    Nodes of one graph launch share a correlation id. Where streams overlap, a gap is one in all of them.
    """
    found = sorted(
        (float(e["ts"]), float(e["ts"]) + float(e.get("dur", 0)), e.get("args", {}).get("correlation"))
        for e in events
        if e.get("cat") in _WORK and e.get("ph") == "X"
    )
    if not found:
        return None
    between = within = 0.0
    first, end, launch = found[0]
    for start, stop, correlation in found[1:]:
        if start > end:
            if correlation == launch and launch is not None:
                within += start - end
            else:
                between += start - end
        if stop >= end:
            end, launch = stop, correlation
    return Idle((end - first) / 1e6, between / 1e6, within / 1e6)


def profiled(work: Callable[[], object]) -> Idle | None:
    """Run `work` under the profiler, which sees kernels alone; None where it saw none."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        with torch.profiler.profile(activities=activities) as profile:
            work()
            torch.cuda.synchronize()
        profile.export_chrome_trace(str(file))
        return idle(json.loads(file.read_text("utf-8")).get("traceEvents", []))
