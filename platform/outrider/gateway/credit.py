"""Work sent since a load snapshot was taken, added to it: two requests in one tick must not see one idle replica."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from outrider.types import LoadSnapshot

__all__ = ["InFlightCredit"]

TRANSIT_S = 0.02
"""How long a request may be on its way to the engine; counted twice for that long rather than not at all."""


class InFlightCredit:
    """One replica's recent dispatches. Times are on the clock of `LoadSnapshot.time_s`."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, int]] = deque()

    def dispatched(self, now_s: float, prompt_tokens: int) -> None:
        """A request left for the replica."""
        self._sent.append((now_s, prompt_tokens))

    def applied(self, load: LoadSnapshot) -> LoadSnapshot:
        """The snapshot with everything queued that it cannot know of yet."""
        while self._sent and self._sent[0][0] + TRANSIT_S < load.time_s:
            self._sent.popleft()
        if not self._sent:
            return load
        return replace(
            load,
            queued_requests=load.queued_requests + len(self._sent),
            queued_tokens=load.queued_tokens + sum(tokens for _, tokens in self._sent),
        )
