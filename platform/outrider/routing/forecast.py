"""Predictions for all candidates of a request: raw, corrected by what was learnt, and at the policy's quantile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outrider.routing.corrections import upper_share
from outrider.routing.prediction import Axes, Fleet, Floats, Prediction, predict
from outrider.routing.roads import Road

__all__ = ["Forecast", "Times", "forecast"]


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
    rows = [
        (
            r.prompt_tokens, r.output_tokens, r.long_output_tokens, r.accepted_ratio, r.cost_usd, r.quality, r.widening,
            r.ttft.median, r.tpot.median, r.ttft.upper, r.tpot.upper,
        )
        for r in roads
    ]  # fmt: skip
    numbers = np.array(rows).T
    prompt, output, long_output, ratios = numbers[:4]
    raw = predict(Fleet.of([road.snapshot for road in roads]), axes, prompt, output, choices, ratios)
    cost_usd, quality, widening = numbers[4:7, :, None, None]
    medians, uppers = numbers[7:9], numbers[9:]
    at_quantile = medians + (uppers - medians) * upper_share(quantile)
    ttft_shift, tpot_shift, late_ttft_shift, late_tpot_shift = np.exp([*medians, *at_quantile])[:, :, None, None]
    block = np.empty((11, *raw.tpot_s.shape))
    typical, late, fresh = (Times(*block[at : at + 3]) for at in (0, 3, 6))
    np.multiply(raw.ttft_s, ttft_shift, out=typical.ttft_s)
    np.multiply(raw.tpot_s, tpot_shift, out=typical.tpot_s)
    np.multiply(raw.ttft_s, late_ttft_shift, out=fresh.ttft_s)
    np.multiply(raw.tpot_s, late_tpot_shift, out=fresh.tpot_s)
    _whole(typical, fresh, (output - 1.0)[:, None, None], (long_output - output)[:, None, None])
    np.multiply(block[6:9], widening, out=block[3:6])
    block[9], block[10] = cost_usd, quality
    return Forecast(roads, axes, block, raw, typical, late, fresh, block[9], block[10])


def _whole(typical: Times, late: Times, later: Floats, much_later: Floats) -> None:
    """Fill in the time of the whole answer, typical and late.

    The three reasons to be late (start, pace, length) are taken to be independent: their excesses add as squares.
    """
    np.add(typical.ttft_s, later * typical.tpot_s, out=typical.e2e_s)
    start_s, pace_s = late.ttft_s - typical.ttft_s, later * (late.tpot_s - typical.tpot_s)
    length_s = much_later * typical.tpot_s
    np.sqrt(start_s * start_s + pace_s * pace_s + length_s * length_s, out=late.e2e_s)
    np.add(late.e2e_s, typical.e2e_s, out=late.e2e_s)
