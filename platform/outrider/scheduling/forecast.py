"""What earlier rounds foretell of the next block's survival: per request, from all requests while one is new.

Confidences of a drafted block are known for all γ slots, also those that were cut, so unlike counts of accepted tokens
they are not censored. What the calibration of a drafter lacks is made good by a factor: accepted ÷ expected tokens.
"""

from __future__ import annotations

import numpy as np

from outrider.scheduling.scheduler import Floats, Ints

__all__ = ["Forecast"]

_OWN_WEIGHT = 0.3
_COMMON_WEIGHT = 0.02
_PRIOR_RATE = 0.8
_PRIOR_TOKENS = 8.0
_TRUST_DECAY = 0.99


class Forecast:
    """Prefix survival [γ] by class of traffic, and the factor that observed acceptance asks for.

    Starts from 0.8 a slot, rather high: what looks good is tried, what looks bad never is.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._common: dict[str, Floats] = {}
        self._blocks: dict[str, int] = {}
        self._accepted: dict[str, float] = {}
        self._expected: dict[str, float] = {}

    def of(self, kind: str, own: Floats | None) -> Floats:
        """Expected survival float64 [γ] for a request of this class with what `after` returned for it last, if anything."""
        profile = own if own is not None else self._common.get(kind)
        if profile is None:
            profile = _PRIOR_RATE ** np.arange(1, self.block_size + 1)
        return np.minimum(profile * self.trust(kind), 1.0)

    def trust(self, kind: str) -> float:
        """Accepted ÷ expected tokens of this class lately; 1 before there are any."""
        return (self._accepted.get(kind, 0.0) + _PRIOR_TOKENS) / (self._expected.get(kind, 0.0) + _PRIOR_TOKENS)

    def after(self, kind: str, own: Floats | None, survival: Floats) -> Floats:
        """Take in a drafted block's live survival float64 [γ]; returns what is now known of its request."""
        common = self._common.get(kind)
        blocks = self._blocks[kind] = self._blocks.get(kind, 0) + 1
        weight = max(_COMMON_WEIGHT, 1.0 / blocks)
        self._common[kind] = survival.copy() if common is None else common + weight * (survival - common)
        before = self._common[kind] if own is None else own
        return np.asarray(before + _OWN_WEIGHT * (survival - before))

    def learn(self, kind: str, expected: float, accepted: int) -> None:
        """A round's Σ_{j≤ℓ} a_j of the admitted tokens, and how many of them were accepted."""
        self._expected[kind] = _TRUST_DECAY * self._expected.get(kind, 0.0) + expected
        self._accepted[kind] = _TRUST_DECAY * self._accepted.get(kind, 0.0) + accepted

    def tokens(self, kind: str, caps: Ints) -> Floats:
        """1 + Σ_{j≤cap} of the common survival, for each cap."""
        total = np.concatenate(([1.0], 1.0 + np.cumsum(self.of(kind, None))))
        return np.asarray(total[caps])
