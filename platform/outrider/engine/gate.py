"""Whether a round should draft at all: the saving that cutting a block cannot give is the draft itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from outrider.engine.load import Smoothed
from outrider.scheduling import StepCostCurve

__all__ = ["DraftGate"]

_KNOWN_ROUNDS = 6
_CLOSES_BELOW = 0.95
_FIRST_PROBE = 4
_LAST_PROBE = 64
_WEIGHT = 0.05


@dataclass(slots=True)
class _SizeClass:
    """What drafted rounds of one size did lately, per request, and whether such rounds are drafted now."""

    draft_s: Smoothed = field(default_factory=lambda: Smoothed(_WEIGHT))
    verified: Smoothed = field(default_factory=lambda: Smoothed(_WEIGHT))
    emitted: Smoothed = field(default_factory=lambda: Smoothed(_WEIGHT))
    closed: bool = False
    skipped: int = 0
    probe_after: int = _FIRST_PROBE


class DraftGate:
    """Compares the rate of recent drafted rounds with what plain rounds of the same size would give.

    Statistics are kept by size class (requests to the next power of two) and are at least one round old. Rounds are
    drafted while too little is known: of the class, or of most of the requests in it. A class closes when drafting is
    clearly slower (5 %) and opens when it is not slower; a closed one is probed after 4 rounds, then 8, up to every
    64th.
    """

    def __init__(self, curve: StepCostCurve) -> None:
        self._curve = curve
        self._classes: dict[int, _SizeClass] = {}

    def opens(self, requests: int, new_requests: int, other_tokens: int, host_s: float) -> bool:
        """Whether to draft for `requests`, of which `new_requests` have hardly been drafted for yet.

        other_tokens are computed in the same step; host_s is what a round costs beside draft and forward.
        """
        known = self._classes.get(requests.bit_length())
        if known is None or known.emitted.samples < _KNOWN_ROUNDS or 2 * new_requests > requests:
            return True
        gain = self._gain(known, requests, other_tokens, host_s)
        known.closed = gain < (1.0 if known.closed else _CLOSES_BELOW)
        if not known.closed:
            known.skipped, known.probe_after = 0, _FIRST_PROBE
            return True
        known.skipped += 1
        if known.skipped <= known.probe_after:
            return False
        known.skipped, known.probe_after = 0, min(2 * known.probe_after, _LAST_PROBE)
        return True

    def record(self, requests: int, verified_tokens: int, emitted_tokens: int, draft_s: float) -> None:
        """A drafted round: tokens verified (anchors included) and emitted, over all its requests."""
        known = self._classes.setdefault(requests.bit_length(), _SizeClass())
        known.draft_s.add(draft_s)
        known.verified.add(verified_tokens / requests)
        known.emitted.add(emitted_tokens / requests)

    def _gain(self, known: _SizeClass, requests: int, other_tokens: int, host_s: float) -> float:
        """Emission rate of drafted rounds ÷ that of plain ones."""
        plain_s = host_s + float(self._curve.seconds_at(other_tokens + requests))
        verified = other_tokens + round(requests * known.verified.value)
        drafted_s = host_s + known.draft_s.value + float(self._curve.seconds_at(verified))
        return known.emitted.value * plain_s / drafted_s
