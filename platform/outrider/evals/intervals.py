"""Intervals and tests: percentile bootstrap over groups of items, Wilson where that degenerates, McNemar's exact test.

B. Efron, R. Tibshirani: An Introduction to the Bootstrap (1993), ch. 13. E. B. Wilson: Probable inference (1927).
Q. McNemar (1947), in its exact binomial form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "Interval", "accuracy", "difference", "mcnemar", "ratio", "wilson"]

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

RESAMPLES = 2000
CONFIDENCE = 0.95
_Z = 1.959963984540054
_SEED = 20261124
_DRAWS_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval and how it was had: `bootstrap`, `wilson`, or `none` where nothing was measured."""

    low: float
    high: float
    method: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a share; [0, 1] without trials."""
    if trials == 0:
        return Interval(0.0, 1.0, "none")
    share, z2 = successes / trials, _Z * _Z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high, "wilson")


def accuracy(correct: Sequence[bool], groups: Sequence[str]) -> Interval:
    """Interval of the share of right answers; items of one group are resampled together.

    Wilson's where the bootstrap would be a point: every answer right, or none, or a single group.
    """
    values = np.asarray(correct, dtype=np.float64)
    count, right = len(values), int(values.sum())
    sums = _by_group(np.stack((values, np.ones(count)), axis=1), groups) if count else np.zeros((0, 2))
    if count == 0 or right in (0, count) or len(sums) < 2:
        return wilson(right, count)
    return _bootstrap(sums, lambda totals: totals[:, 0] / totals[:, 1])


def difference(first: Sequence[bool], second: Sequence[bool], groups: Sequence[str]) -> Interval:
    """Interval of accuracy(second) − accuracy(first) over the same items, resampled in pairs.

    Where every pair differs alike (all the same, or all won by one side), the bootstrap would be a point: then it
    spans what Wilson's interval leaves open.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    gains = b - a
    count = len(gains)
    if count == 0:
        return Interval(-1.0, 1.0, "none")
    sums = _by_group(np.stack((gains, np.ones(count)), axis=1), groups)
    means = sums[:, 0] / sums[:, 1]
    if len(sums) > 1 and means.min() != means.max():
        return _bootstrap(sums, lambda totals: totals[:, 0] / totals[:, 1])
    gain, left_open = float(gains.mean()), 1 - wilson(len(sums), len(sums)).low
    low = gain - left_open * (2 if gain > 0 else 1 if gain == 0 else 0)
    high = gain + left_open * (2 if gain < 0 else 1 if gain == 0 else 0)
    return Interval(max(-1.0, low), min(1.0, high), "wilson")


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p-value that both sides are equally often the only right one; 1 where they never differ."""
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    differing = lost + won
    if differing == 0:
        return 1.0
    logs = [
        math.lgamma(differing + 1) - math.lgamma(k + 1) - math.lgamma(differing - k + 1) - differing * math.log(2)
        for k in range(min(lost, won) + 1)
    ]
    return min(1.0, 2 * sum(map(math.exp, logs)))


def ratio(first: Sequence[float], second: Sequence[float], groups: Sequence[str], *, median: bool) -> Interval:
    """Interval of second ÷ first, both of the same items: of their medians, or of their totals."""
    if not first or sum(first) <= 0 or sum(second) <= 0:
        return Interval(0.0, math.inf, "none")
    pairs = np.stack((np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)), axis=1)
    if median:
        return _resampled_medians(pairs)
    sums = _by_group(pairs, groups)
    if len(sums) < 2:
        return Interval(0.0, math.inf, "none")
    return _bootstrap(sums, lambda totals: totals[:, 1] / np.maximum(totals[:, 0], 1e-300))


def _by_group(rows: Floats, groups: Sequence[str]) -> Floats:
    """Rows summed by group, in the order of first appearance: [groups, columns]."""
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(group, len(numbers)) for group in groups]
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums


def _bootstrap(sums: Floats, statistic: Statistic) -> Interval:
    """Percentile interval of a statistic of column totals over resampled rows; seeded, so it repeats."""
    columns = [np.ascontiguousarray(column) for column in sums.T]
    found = [
        statistic(np.stack([column[drawn].sum(axis=1) for column in columns], axis=1)) for drawn in _draws(len(sums))
    ]
    return _percentile(np.concatenate(found))


def _resampled_medians(pairs: Floats) -> Interval:
    first, second = (np.ascontiguousarray(column) for column in pairs.T)
    found = [
        np.median(second[drawn], axis=1) / np.maximum(np.median(first[drawn], axis=1), 1e-300)
        for drawn in _draws(len(pairs))
    ]
    return _percentile(np.concatenate(found))


def _draws(count: int) -> Iterator[NDArray[np.int32]]:
    """RESAMPLES rows of `count` indices in pieces that fit a cache better than all at once."""
    rng, at_once = np.random.default_rng(_SEED), max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, RESAMPLES, at_once):
        yield rng.integers(count, size=(min(at_once, RESAMPLES - start), count), dtype=np.int32)


def _percentile(values: Floats) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return Interval(float(low), float(high), "bootstrap")
