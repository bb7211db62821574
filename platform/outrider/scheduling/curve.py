"""How long one target step takes as a function of the tokens in it."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from outrider.errors import CurveError

__all__ = ["StepCostCurve", "isotonic"]

_FLAT_RATIO = 1.02


@dataclass(frozen=True, slots=True)
class StepCostCurve:
    """T(B): seconds of one target forward over B flat tokens; piecewise linear between measured points.

    tokens ascend strictly and seconds do not decrease. `version` is a fingerprint of both.
    """

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    version: str

    @classmethod
    def measured(cls, samples: Sequence[tuple[int, float]], *, may_be_flat: bool = False) -> StepCostCurve:
        """Build from (tokens, seconds) samples: the median per size, made monotone by pool-adjacent-violators.

        Raises CurveError when fewer than two sizes were measured, a time is not positive, or the largest step costs no
        more than the smallest (unless it `may_be_flat`): verification would look free, and a planner verify everything.
        """
        sizes = sorted({size for size, _ in samples})
        if len(sizes) < 2 or sizes[0] < 1:
            raise CurveError("a step-cost curve needs at least two measured sizes of one token or more")
        medians = [float(np.median([s for size, s in samples if size == want])) for want in sizes]
        if not all(np.isfinite(medians)) or min(medians) <= 0:
            raise CurveError("a step-cost curve needs positive, finite times")
        seconds = isotonic(medians)
        digest = hashlib.sha256(repr([sizes, [f"{s:.9f}" for s in seconds]]).encode()).hexdigest()
        curve = cls(tuple(sizes), tuple(seconds), digest[:12])
        if curve.flat and not may_be_flat:
            raise CurveError(
                f"the step-cost curve is flat: {sizes[-1]} tokens cost {seconds[-1]:.6f} s, "
                f"{sizes[0]} cost {seconds[0]:.6f} s; measure larger steps"
            )
        return curve

    def scaled(self, factors: Sequence[float]) -> StepCostCurve:
        """Every point's seconds times its factor, made monotone again."""
        seconds = isotonic([s * factor for s, factor in zip(self.seconds, factors, strict=True)])
        return StepCostCurve(self.tokens, tuple(seconds), self.version)

    @property
    def flat(self) -> bool:
        """Whether the largest step costs so little more than the smallest that verification would look free."""
        return self.seconds[-1] < self.seconds[0] * _FLAT_RATIO

    def seconds_at(self, tokens: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """T at the given sizes; beyond the last point the last segment's slope goes on."""
        wanted = np.asarray(tokens, dtype=np.float64)
        inside = np.interp(wanted, self.tokens, self.seconds)
        slope = (self.seconds[-1] - self.seconds[-2]) / (self.tokens[-1] - self.tokens[-2])
        beyond = np.maximum(wanted - self.tokens[-1], 0.0) * slope
        return np.asarray(inside + beyond, dtype=np.float64)

    def step_s(self, tokens: int) -> float:
        """T of one size, as `seconds_at` gives it, for a fraction of its overhead."""
        place = min(max(bisect_right(self.tokens, tokens), 1), len(self.tokens) - 1)
        left, right = self.tokens[place - 1], self.tokens[place]
        share = max(0.0, (tokens - left) / (right - left))
        return self.seconds[place - 1] + share * (self.seconds[place] - self.seconds[place - 1])

    def tokens_within(self, seconds: float) -> int:
        """Largest B with T(B) ≤ seconds; 0 when not even the smallest measured step is so short."""
        if seconds < self.seconds[0]:
            return 0
        place = bisect_right(self.seconds, seconds)
        left, right = min(place - 1, len(self.tokens) - 2), min(place, len(self.tokens) - 1)
        rise_s = self.seconds[right] - self.seconds[left]
        share = (seconds - self.seconds[left]) / rise_s if rise_s > 0 else 1.0
        return int(self.tokens[left] + share * (self.tokens[right] - self.tokens[left]))

    @property
    def hull(self) -> StepCostCurve:
        """Its lower convex hull: where T has stairs, what the next token costs in the long run."""
        return _hull(self)

    def points(self) -> tuple[tuple[int, float], ...]:
        """The curve as ((tokens, seconds), …), the form that load snapshots carry."""
        return tuple(zip(self.tokens, self.seconds, strict=True))


@lru_cache(maxsize=64)
def _hull(curve: StepCostCurve) -> StepCostCurve:
    """By Andrew's monotone chain; the end points are always on it."""
    kept: list[tuple[int, float]] = []
    for x, y in curve.points():
        while len(kept) > 1 and (kept[-1][1] - kept[-2][1]) * (x - kept[-2][0]) >= (y - kept[-2][1]) * (
            kept[-1][0] - kept[-2][0]
        ):
            kept.pop()
        kept.append((x, y))
    tokens, seconds = zip(*kept, strict=True)
    return StepCostCurve(tokens, seconds, curve.version)


def isotonic(values: Sequence[float]) -> list[float]:
    """Least-squares non-decreasing fit with equal weights (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (right, n_right), (left, n_left) = pools.pop(), pools.pop()
            pools.append(((left * n_left + right * n_right) / (n_left + n_right), n_left + n_right))
    return [value for value, count in pools for _ in range(count)]
