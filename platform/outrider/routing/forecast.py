"""Predictions for all candidates of a request: raw, corrected by what was learnt, and at the policy's quantile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from outrider.routing.corrections import upper_share
from outrider.routing.prediction import Axes, Fleet, Floats, Prediction, predict, table
from outrider.routing.roads import Road

__all__ = ["Forecast", "Times", "forecast"]

_NUMBERS = attrgetter(
    "prompt_tokens", "output_tokens", "long_output_tokens", "accepted_ratio", "cost_usd", "quality", "widening",
    "ttft.median", "tpot.median", "ttft.upper", "tpot.upper",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, [R, C, D] each: to the first token, per token after it, to the last expected token."""

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of R roads, C classes, D depths; every array is [R, C, D], contiguous, and a row of `block`.

    raw: as the replicas' curves have it. typical: medians. late_fresh: at the quantile, as if every load report were
    new. late: widened by their age.
    """

    roads: Sequence[Road]
    axes: Axes
    block: Floats
    """[11, R, C, D]: TTFT, TPOT and whole of typical, late and late_fresh, then cost in dollars and quality."""
    raw: Prediction
    typical: Times
    late: Times
    late_fresh: Times
    cost_usd: Floats
    quality: Floats

    def place(self, candidate: int) -> tuple[int, int, int]:
        """(road, class, depth) of a flat index."""
        _, classes, depths = self.cost_usd.shape
        road, rest = divmod(candidate, classes * depths)
        return road, *divmod(rest, depths)


def forecast(roads: Sequence[Road], axes: Axes, choices: int, quantile: float) -> Forecast:
    """Predict every candidate at once."""
    numbers = table(map(_NUMBERS, roads), 11)
    prompt, output, long_output, ratios = numbers[:4]
    raw = predict(Fleet.of([road.snapshot for road in roads]), axes, prompt, output, choices, ratios)
    block = np.empty((11, *raw.tpot_s.shape))
    times = block[:9].reshape(3, 3, *raw.tpot_s.shape)
    typical, late, fresh = (Times(*each) for each in times)
    cost_usd, quality, widening = numbers[4:7, :, None, None]
    medians, uppers = numbers[7:9], numbers[9:]
    shifts = np.exp([medians, medians + (uppers - medians) * upper_share(quantile)])[..., None, None]
    np.multiply(raw.ttft_s, shifts[:, 0], out=times[::2, 0])
    np.multiply(raw.tpot_s, shifts[:, 1], out=times[::2, 1])
    _whole(times[0], times[2], (output - 1.0)[:, None, None], (long_output - output)[:, None, None])
    np.multiply(times[2], widening, out=times[1])
    block[9], block[10] = cost_usd, quality
    return Forecast(roads, axes, block, raw, typical, late, fresh, block[9], block[10])


def _whole(typical: Floats, late: Floats, later: Floats, much_later: Floats) -> None:
    """Fill in the time of the whole answer, typical and late, each [3, R, C, D] of TTFT, TPOT and whole.

    The three reasons to be late (start, pace, length) are taken to be independent: their excesses add as squares.
    """
    np.multiply(later, typical[1], out=typical[2])
    typical[2] += typical[0]
    start_s, pace_s = late[:2] - typical[:2]
    pace_s *= later
    length_s = much_later * typical[1]
    start_s *= start_s
    start_s += np.multiply(pace_s, pace_s, out=pace_s)
    start_s += np.multiply(length_s, length_s, out=length_s)
    np.sqrt(start_s, out=late[2])
    late[2] += typical[2]
