"""When requests of an open loop are due: renewal processes of a given rate and burstiness, decided before the run."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from outrider.errors import ConfigurationError

__all__ = ["Times", "on_off_times", "renewal_times", "with_bursts"]

Times = NDArray[np.float64]
"""Seconds from the beginning, ascending."""


def renewal_times(rate_per_s: float, duration_s: float, random: np.random.Generator, *, cv: float = 1.0) -> Times:
    """Arrivals in [0, duration_s) with gamma gaps of mean 1/rate_per_s and coefficient of variation `cv`; 1 is Poisson.

    The process is stationary: rate_per_s · duration_s arrivals are expected however bursty it is. A process that begins
    with a whole gap expects (cv² − 1)/2 more. The first gap is therefore a uniform part of a length-biased one,
    Gamma(k + 1, θ) where gaps are Gamma(k, θ) (Cox, Renewal Theory, §5). Raises ConfigurationError.
    """
    for name, value in (("rate_per_s", rate_per_s), ("duration_s", duration_s), ("cv", cv)):
        if not (np.isfinite(value) and value > 0):
            raise ConfigurationError(f"{name} must be a finite number greater than 0, got {value:g}", param=name)
    shape = 1 / cv**2
    scale_s = 1 / (rate_per_s * shape)
    parts = [np.asarray([random.uniform() * random.gamma(shape + 1, scale_s)])]
    while (last_s := float(parts[-1][-1])) < duration_s:
        gaps = random.gamma(shape, scale_s, size=int(rate_per_s * (duration_s - last_s)) + 16)
        parts.append(last_s + np.cumsum(gaps))
    times: Times = np.concatenate(parts)
    return times[times < duration_s]


def on_off_times(
    rate_per_s: float, duration_s: float, random: np.random.Generator, *, on_s: float, off_s: float, cv: float = 1.0
) -> Times:
    """As `renewal_times`, but all arrivals fall into the first on_s seconds of every on_s + off_s.

    The mean over whole cycles stays rate_per_s: while it is on, the rate is (on_s + off_s) / on_s times as high.
    """
    for name, value in (("on_s", on_s), ("off_s", off_s)):
        if not (np.isfinite(value) and value > 0):
            raise ConfigurationError(f"{name} must be a finite number greater than 0, got {value:g}", param=name)
    whole, rest_s = divmod(duration_s, on_s + off_s)
    busy_s = whole * on_s + min(rest_s, on_s)
    busy = renewal_times(rate_per_s * (on_s + off_s) / on_s, busy_s, random, cv=cv)
    return busy + np.floor(busy / on_s) * off_s


def with_bursts(times: Times, bursts: Iterable[tuple[float, int]]) -> Times:
    """The same arrivals and, for each (at_s, requests), that many more at one instant."""
    extra = [np.full(requests, at_s) for at_s, requests in bursts]
    return np.sort(np.concatenate([times, *extra]))
