"""Stop strings over a stream of text: nothing of a stop string is ever released."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopMatcher"]


class StopMatcher:
    """Releases text up to the stop string that completes first, however the text is cut into chunks.

    Among stop strings completed by the same character the longest wins. `matched` names it; after that,
    everything pushed is dropped.
    """

    __slots__ = ("_firsts", "_held", "_longest", "_stops", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        """stops: non-empty strings; none of them switches matching off."""
        self._stops = tuple(stops)
        self._firsts = frozenset(stop[0] for stop in stops)
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Text that can no longer be part of a stop string."""
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        buffer = self._held + text
        found = self._first_complete(buffer)
        if found is not None:
            start, self.matched = found
            self._held = ""
            return buffer[:start]
        keep = self._unfinished(buffer)
        self._held = buffer[keep:]
        return buffer[:keep]

    def flush(self) -> str:
        """What was held back when the stream ended without a stop string."""
        held, self._held = self._held, ""
        return held

    def _first_complete(self, buffer: str) -> tuple[int, str] | None:
        """(start, stop string) of the match with the smallest end, then the smallest start."""
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = buffer.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        return None if best is None else (best[1], best[2])

    def _unfinished(self, buffer: str) -> int:
        """Where the longest suffix that could begin a stop string starts; the end if there is none."""
        for index in range(max(0, len(buffer) - self._longest + 1), len(buffer)):
            if buffer[index] in self._firsts:
                tail = buffer[index:]
                if any(stop.startswith(tail) for stop in self._stops):
                    return index
        return len(buffer)
