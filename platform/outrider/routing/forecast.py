"""Predictions for all candidates of a request: raw, corrected by what was learnt, and at the policy's quantile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outrider.routing.prediction import Axes, Fleet, Floats, Prediction, predict
from outrider.routing.roads import Road

__all__ = ["Forecast", "Times", "forecast"]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, float64 [R, C, D] each: to the first token, per token after it, to the last expected token."""

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of R roads, C classes, D depths. cost_usd and quality are [R, 1, 1] broadcast to all of them.

    typical: medians. late_fresh: at the quantile, as if every load report were new. late: widened by their age.
    """

    roads: Sequence[Road]
    axes: Axes
    raw: Prediction
    typical: Times
    late_fresh: Times
    late: Times
    cost_usd: Floats
    quality: Floats


def forecast(roads: Sequence[Road], axes: Axes, choices: int, quantile: float) -> Forecast:
    """Predict every candidate at once."""
    numbers = np.array([(r.prompt_tokens, r.output_tokens, r.long_output_tokens) for r in roads], dtype=np.int64).T
    ratios = np.array([road.accepted_ratio for road in roads])
    raw = predict(Fleet.of([road.snapshot for road in roads]), axes, numbers[0], numbers[1], choices, ratios)
    shifts = np.exp(
        [(r.ttft.median, r.ttft.at(quantile), r.tpot.median, r.tpot.at(quantile)) for r in roads],
    ).T[:, :, None, None]
    later, much_later = (numbers[1] - 1)[:, None, None], (numbers[2] - numbers[1])[:, None, None]
    ttft_s, tpot_s = raw.ttft_s * shifts[0], raw.tpot_s * shifts[2]
    late_ttft_s, late_tpot_s = raw.ttft_s * shifts[1], raw.tpot_s * shifts[3]
    typical = Times(ttft_s, tpot_s, ttft_s + later * tpot_s)
    # The three reasons to be late (start, pace, length) are taken to be independent: their excesses add as squares.
    excess_s = np.sqrt((late_ttft_s - ttft_s) ** 2 + (later * (late_tpot_s - tpot_s)) ** 2 + (much_later * tpot_s) ** 2)
    fresh = Times(late_ttft_s, late_tpot_s, typical.e2e_s + excess_s)
    widening = np.array([road.widening for road in roads])[:, None, None]
    shape = raw.tpot_s.shape
    return Forecast(
        roads, axes, raw, typical, fresh,
        Times(fresh.ttft_s * widening, fresh.tpot_s * widening, fresh.e2e_s * widening),
        np.broadcast_to(np.array([road.cost_usd for road in roads])[:, None, None], shape),
        np.broadcast_to(np.array([road.quality for road in roads])[:, None, None], shape),
    )  # fmt: skip
