"""Measures of probabilities against outcomes, and intervals that respect groups.

A. P. Dawid: The well-calibrated Bayesian (1982); M. P. Naeini et al.: expected calibration error (2015), here over bins
of equally many items, since bins of equal width are empty here and there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bin", "Interval", "auc", "bins", "calibration_error", "resampled"]

BINS = 10
RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval: percentile bootstrap over groups."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Items of neighbouring probabilities: the range, their mean, and the share that was right."""

    low: float
    high: float
    items: int
    mean_probability: float
    right: float


def bins(said: Floats, right: Floats) -> tuple[Bin, ...]:
    """At most ten bins of equally many items, in order of probability."""
    order = np.argsort(said, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return tuple(
        Bin(float(said[part[0]]), float(said[part[-1]]), len(part), float(said[part].mean()), float(right[part].mean()))
        for part in parts
    )


def calibration_error(said: Floats, right: Floats) -> float:
    """Expected calibration error: distance of mean probability and share right, over the bins by their items."""
    return sum(each.items * abs(each.mean_probability - each.right) for each in bins(said, right)) / len(said)


def auc(said: Floats, right: Floats, times: Floats | None = None) -> float | None:
    """The probability that a right answer was given the higher probability, ties counting half; None without both.

    times: how often each item counts; once if absent.
    """
    weights = np.ones(len(said)) if times is None else times
    values, place = np.unique(said, return_inverse=True)
    good = np.bincount(place, weights * right, len(values))
    bad = np.bincount(place, weights * (1 - right), len(values))
    pairs = good.sum() * bad.sum()
    if pairs == 0:
        return None
    return float((good * (np.cumsum(bad) - 0.5 * bad)).sum() / pairs)


def resampled(groups: NDArray[np.int64], statistic: Callable[[Floats], float | None]) -> Interval:
    """Interval of a statistic of how often each item counts; groups [items] are numbered from 0. Seeded."""
    rng, count = np.random.default_rng(20261125), int(groups.max()) + 1
    found = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        value = statistic(drawn[groups])
        if value is not None:
            found.append(value)
    low, high = np.quantile(found, (0.025, 0.975)) if found else (0.0, 1.0)
    return Interval(float(low), float(high))
