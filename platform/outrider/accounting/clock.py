"""Two clocks: one for calendars, which may jump, and one for durations, which never does."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    def wall_s(self) -> float:
        """Seconds of the epoch: windows and rows of the ledger."""
        ...

    def steady_s(self) -> float:
        """Seconds since whenever: leases, rates, waiting."""
        ...


class SystemClock:
    def wall_s(self) -> float:
        return time.time()

    def steady_s(self) -> float:
        return time.monotonic()
