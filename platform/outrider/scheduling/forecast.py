"""What earlier rounds foretell of the next block's survival: per request, from all requests while one is new.

Confidences of a drafted block are known for all γ slots, also those that were cut, so unlike counts of accepted tokens
they are not censored. What the drafter's calibration lacks is made good by a factor: accepted ÷ expected tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outrider.scheduling.scheduler import Floats

__all__ = ["Forecast"]

_OWN_WEIGHT = 0.3
_COMMON_WEIGHT = 0.02
_PRIOR_RATE = 0.8
_PRIOR_TOKENS = 8.0
_DECAY = 0.99


@dataclass(slots=True)
class _Class:
    """What is known of one class of traffic; accepted and expected tokens decay."""

    survival: Floats
    blocks: int = 0
    accepted: float = _PRIOR_TOKENS
    expected: float = _PRIOR_TOKENS

    def take(self, survival: Floats) -> None:
        self.blocks += 1
        self.survival = self.survival + max(_COMMON_WEIGHT, 1.0 / self.blocks) * (survival - self.survival)


class Forecast:
    """Prefix survival by class of traffic, and the factor that observed acceptance asks for.

    Starts from 0.8 a slot, rather high: what looks good is tried and found out, what looks bad never is.
    """

    def __init__(self, block_size: int) -> None:
        self._prior: Floats = np.full(block_size, _PRIOR_RATE).cumprod()
        self._classes: dict[str, _Class] = {}

    def expected(self, kinds: Sequence[str], own: Sequence[Floats | None]) -> Floats:
        """Survival float64 [R, γ] for requests of these classes, each with what `after` returned for it last."""
        known = [self._class(kind) for kind in kinds]
        rows = np.array([each.survival if row is None else row for each, row in zip(known, own, strict=True)])
        trust = np.array([each.accepted / each.expected for each in known])
        survival: Floats = np.minimum(rows * trust[:, None], 1.0)
        return survival

    def after(self, kind: str, own: Floats | None, survival: Floats) -> Floats:
        """Take in a drafted block's live survival float64 [γ]; returns what is now known of its request."""
        known = self._class(kind)
        known.take(survival)
        before = known.survival if own is None else own
        return np.asarray(before + _OWN_WEIGHT * (survival - before))

    def learn(self, kind: str, expected: float, accepted: int) -> None:
        """A round's Σ_{j≤ℓ} a_j of admitted tokens, and how many of them were accepted."""
        known = self._class(kind)
        known.expected = _PRIOR_TOKENS + _DECAY * (known.expected - _PRIOR_TOKENS) + expected
        known.accepted = _PRIOR_TOKENS + _DECAY * (known.accepted - _PRIOR_TOKENS) + accepted

    def _class(self, kind: str) -> _Class:
        return self._classes.setdefault(kind, _Class(self._prior))
