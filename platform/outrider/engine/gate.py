"""Whether a round should draft at all: the saving that cutting a block cannot give is the draft itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from outrider.engine.load import Smoothed, Typical
from outrider.scheduling import StepCostCurve

__all__ = ["DraftGate", "RoundCosts"]

_KNOWN_ROUNDS = 6
_CLOSES_BELOW = 0.95
_HOPELESS_BELOW = 0.8
"""No new request is so much easier than the others that drafting for it would pay where it is this much slower."""
_FIRST_PROBE = 4
_LAST_PROBE = 64
_WEIGHT = 0.05


@dataclass(slots=True)
class RoundCosts:
    """What a round takes beside waiting for a draft and T(B), seconds; drafted rounds do more of it.

    Measured as the rest of a round without prompts, so what T(B) leaves out is in it.
    """

    plain: Typical = field(default_factory=Typical)
    drafted: Typical = field(default_factory=Typical)

    def add(self, rest_s: float, *, drafted: bool) -> None:
        """A round's seconds less those of its draft and of T(B)."""
        (self.drafted if drafted else self.plain).add(max(rest_s, 0.0))


@dataclass(slots=True)
class _SizeClass:
    """What drafted rounds of one size did lately, per request, and whether such rounds are drafted now."""

    draft_s: Typical = field(default_factory=Typical)
    verified: Smoothed = field(default_factory=lambda: Smoothed(_WEIGHT))
    emitted: Smoothed = field(default_factory=lambda: Smoothed(_WEIGHT))
    closed: bool = False
    skipped: int = 0
    probe_after: int = _FIRST_PROBE


class DraftGate:
    """Compares the rate of recent drafted rounds with what plain rounds of the same size would give.

    Statistics are kept by size class (requests to the next power of two) and are at least one round old. Rounds are
    drafted while too little is known of the class, then plain until it is known what those take, unless drafting pays
    even beside plain rounds that cost no more than T(B). A class closes when drafting is clearly slower (5 %) and opens
    when it is not slower. A closed one drafts for requests of which most are new, unless that is hopeless (20 %
    slower), and is probed after 4 rounds, then 8, up to every 64th.
    """

    def __init__(self, curve: StepCostCurve) -> None:
        self._curve = curve
        self._classes: dict[int, _SizeClass] = {}

    def opens(self, requests: int, new_requests: int, other_tokens: int, costs: RoundCosts) -> bool:
        """Whether to draft for `requests`, of which `new_requests` have hardly been drafted for yet.

        other_tokens are computed in the same step.
        """
        known = self._classes.get(requests.bit_length())
        if known is None or known.emitted.samples < _KNOWN_ROUNDS:
            return True
        gain = self._gain(known, requests, other_tokens, costs)
        if costs.plain.samples < _KNOWN_ROUNDS:
            return gain >= 1.0
        known.closed = gain < (1.0 if known.closed else _CLOSES_BELOW)
        if not known.closed:
            known.skipped, known.probe_after = 0, _FIRST_PROBE
            return True
        if 2 * new_requests > requests and gain >= _HOPELESS_BELOW:
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

    def _gain(self, known: _SizeClass, requests: int, other_tokens: int, costs: RoundCosts) -> float:
        """Emission rate of drafted rounds ÷ that of plain ones.

        Prompts beside them are computed either way: they count only in what verifying costs on top of them. Divided by
        the whole step, a long prompt would make any draft look cheap.
        """
        verified = round(requests * known.verified.value)
        alone, plain, drafted = self._curve.seconds_at(
            np.array([requests, other_tokens + requests, other_tokens + verified])
        )
        plain_s = max(costs.plain.value + float(alone), 1e-9)
        extra_s = known.draft_s.value + costs.drafted.value - costs.plain.value + float(drafted - plain)
        return known.emitted.value * plain_s / (plain_s + max(extra_s, 0.0))
