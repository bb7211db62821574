"""Whether a round should draft at all: the saving that cutting a block cannot give is the draft itself."""

from __future__ import annotations

from collections import defaultdict

from outrider.engine.load import Smoothed
from outrider.scheduling import StepCostCurve

__all__ = ["DraftGate"]

_TRUSTED_ROUNDS = 6
_PROBE_EVERY = 24
_MARGIN = 1.02


class DraftGate:
    """Compares the rate of recent drafted rounds with what plain rounds of the same size would give.

    Statistics are kept by size class (requests to the nearest power of two) and are at least one round old. A class
    that was seen for fewer than six rounds drafts; a closed one is probed every 24th round, so that it can open again.
    """

    def __init__(self, curve: StepCostCurve) -> None:
        self._curve = curve
        self._draft_s: defaultdict[int, Smoothed] = defaultdict(Smoothed)
        self._verified: defaultdict[int, Smoothed] = defaultdict(Smoothed)
        self._emitted: defaultdict[int, Smoothed] = defaultdict(Smoothed)
        self._skipped = 0

    def opens(self, requests: int, other_tokens: int, host_s: float) -> bool:
        """Whether to draft for `requests` in a step that also computes `other_tokens`; host_s is paid either way."""
        size = requests.bit_length()
        emitted = self._emitted[size]
        if emitted.samples < _TRUSTED_ROUNDS:
            return True
        plain_s = host_s + float(self._curve.seconds_at(other_tokens + requests))
        verified = other_tokens + round(requests * self._verified[size].value)
        drafted_s = host_s + self._draft_s[size].value + float(self._curve.seconds_at(verified))
        if emitted.value / drafted_s * _MARGIN >= 1.0 / plain_s:
            self._skipped = 0
            return True
        self._skipped += 1
        return self._skipped % _PROBE_EVERY == 0

    def record(self, requests: int, verified_tokens: int, emitted_tokens: int, draft_s: float) -> None:
        """A drafted round: tokens verified (anchors included) and emitted, over all its requests."""
        size = requests.bit_length()
        self._draft_s[size].add(draft_s)
        self._verified[size].add(verified_tokens / requests)
        self._emitted[size].add(emitted_tokens / requests)
