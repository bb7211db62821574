"""Progress of long work: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

__all__ = ["Progress"]


class Progress:
    """Reports `fraction` done with free-form figures; at most one plain line per `interval_s`."""

    def __init__(self, label: str, interval_s: float = 15.0) -> None:
        self._label = label
        self._interval_s = interval_s
        self._started_s = time.monotonic()
        self._last_s = 0.0
        self._first_fraction: float | None = None
        self._console = Console(stderr=True)
        self._status: Status | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._status = self._console.status(self._label)
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, fraction: float, **figures: float | str) -> None:
        """Show where the work is; the remaining time is extrapolated from this process's own pace."""
        now_s = time.monotonic()
        if self._first_fraction is None:
            self._first_fraction = fraction
        done = fraction - self._first_fraction
        elapsed_s = now_s - self._started_s
        eta = f"{elapsed_s * (1 - fraction) / done:.0f}s" if done > 0 else "?"
        shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
        line = f"{self._label} {100 * fraction:5.1f}% {shown} eta={eta}"
        if self._status is not None:
            self._status.update(line)
        elif now_s - self._last_s >= self._interval_s or fraction >= 1.0:
            self._last_s = now_s
            print(line, file=sys.stderr, flush=True)
