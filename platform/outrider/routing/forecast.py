"""Predictions for all candidates of a request: raw, corrected by what was learnt, and at the policy's quantile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from outrider.routing.corrections import upper_share
from outrider.routing.prediction import Axes, Fleet, Floats, Prediction, predict, table
from outrider.routing.roads import Road

__all__ = ["Forecast", "Times", "forecast"]

_NUMBERS = attrgetter(
    "prompt_tokens", "output_tokens", "long_output_tokens", "accepted_ratio", "list_usd", "quality", "widening",
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

    raw: as the replicas' curves have it. typical: medians. late: at the quantile, widened by the load reports' age.
    """

    roads: Sequence[Road]
    axes: Axes
    block: Floats
    """[8, R, C, D]: TTFT, TPOT and whole, typical and late, then list price in dollars and quality."""
    raw: Prediction
    typical: Times
    late: Times
    list_usd: Floats
    quality: Floats

    def ever_milder(self) -> Iterator[Times]:
        """Late; late as if every load report were new; typical."""
        yield self.late
        widening = np.array([road.widening for road in self.roads])[:, None, None]
        yield Times(*(self.block[3:6] / widening))
        yield self.typical

    def place(self, candidate: int) -> tuple[int, int, int]:
        """(road, class, depth) of a flat index."""
        _, classes, depths = self.list_usd.shape
        road, rest = divmod(candidate, classes * depths)
        return road, *divmod(rest, depths)


def forecast(roads: Sequence[Road], axes: Axes, choices: int, quantile: float) -> Forecast:
    """Predict every candidate at once.

    The three reasons why a whole answer is late (start, pace, length) are taken to be independent: their excesses over
    what is typical add as squares.
    """
    numbers = table(map(_NUMBERS, roads), 11)
    prompt, output, long_output, ratios, list_usd, quality, widening = numbers[:7]
    raw = predict(Fleet.of([road.snapshot for road in roads]), axes, prompt, output, choices, ratios)
    medians, uppers = numbers[7:9], numbers[9:]
    ttft, tpot = np.exp(medians)
    excess_ttft, excess_tpot = np.exp(medians + (uppers - medians) * upper_share(quantile)) - (ttft, tpot)
    later, much_later = (output - 1.0) * tpot, (long_output - output) * tpot
    variance = (excess_tpot * (output - 1.0)) ** 2 + much_later**2
    factors = np.array([ttft, tpot, later, (ttft + excess_ttft) * widening, (tpot + excess_tpot) * widening])
    by_ttft, by_tpot, by_later, by_late_ttft, by_late_tpot = factors[:, :, None, None]
    block = np.empty((8, *raw.tpot_s.shape))
    typical_ttft, typical_tpot, typical_e2e, late_ttft, late_tpot, late_e2e, list_price, right = block
    typical_ttft[:] = raw.ttft_s * by_ttft
    np.multiply(raw.tpot_s, by_tpot, out=typical_tpot)
    np.multiply(raw.tpot_s, by_later, out=typical_e2e)
    typical_e2e += typical_ttft
    late_ttft[:] = raw.ttft_s * by_late_ttft
    np.multiply(raw.tpot_s, by_late_tpot, out=late_tpot)
    np.multiply(raw.tpot_s, raw.tpot_s, out=late_e2e)
    late_e2e *= variance[:, None, None]
    late_e2e += (raw.ttft_s * excess_ttft[:, None, None]) ** 2
    np.sqrt(late_e2e, out=late_e2e)
    late_e2e += typical_e2e
    late_e2e *= widening[:, None, None]
    list_price[:], right[:] = list_usd[:, None, None], quality[:, None, None]
    typical, late = Times(*block[:3]), Times(*block[3:6])
    return Forecast(roads, axes, block, raw, typical, late, list_price, right)
