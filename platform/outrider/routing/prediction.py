"""How long a request would take on a replica, from one load snapshot, for n candidates at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.scheduling import StepCostCurve
from outrider.types import LoadSnapshot

__all__ = ["Grid", "Prediction", "predict"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grid:
    """Depth caps and batch-class numbers of n candidates: depths and co_batch_tokens int64, wait_s float64."""

    depths: Integers
    co_batch_tokens: Integers
    wait_s: Floats


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds, float64 [n] each: to the first token, per token after it, to the last expected token."""

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats

    def widened(self, factor: float) -> Prediction:
        """The same with a margin for the age of the snapshot."""
        return Prediction(self.ttft_s * factor, self.tpot_s * factor, self.e2e_s * factor)


def predict(snapshot: LoadSnapshot, grid: Grid, prompt_tokens: int, output_tokens: int) -> Prediction:
    """Expected times for one more request. None of them falls when queue or running requests grow.

    The curve must have two points or more. TPOT is a round's time over the tokens it is expected to emit,
    T(B) + draft over τ(depth), with one more request running than now and all at the candidate's depth: a choice
    made for one request is made for all like it. TTFT is the wait for a free place, for company (batch class),
    for the round in flight, and for queue and prompt to be prefilled in chunks beside what runs.
    """
    curve = _curve(snapshot)
    rows = 1 + grid.depths
    batch = np.minimum((snapshot.running_requests + 1) * rows, np.maximum(grid.co_batch_tokens, rows))
    draft_s = np.where(grid.depths > 0, snapshot.draft_s, 0.0)
    accepted = np.asarray(snapshot.acceptance_tokens or (1.0,))
    per_round = np.maximum(accepted[np.minimum(grid.depths, accepted.size - 1)], 1.0)
    tpot_s = (curve.seconds_at(batch) + draft_s) / per_round
    ttft_s = (
        _place_wait_s(snapshot, tpot_s, output_tokens)
        + grid.wait_s
        + _round_in_flight_s(snapshot, curve)
        + _prefill_s(snapshot, curve, grid.co_batch_tokens, prompt_tokens)
    )
    return Prediction(ttft_s, tpot_s, ttft_s + (output_tokens - 1) * tpot_s)


def _curve(snapshot: LoadSnapshot) -> StepCostCurve:
    tokens, seconds = zip(*snapshot.step_curve, strict=True)
    return StepCostCurve(tokens, seconds, snapshot.curve_version)


def _place_wait_s(snapshot: LoadSnapshot, tpot_s: Floats, output_tokens: int) -> Floats:
    """Places free up one per expected answer's time over the number of places."""
    places = snapshot.max_running_requests
    if places <= 0:
        return np.zeros_like(tpot_s)
    ahead = max(0, snapshot.running_requests + snapshot.queued_requests + 1 - places)
    return ahead * output_tokens * tpot_s / places


def _round_in_flight_s(snapshot: LoadSnapshot, curve: StepCostCurve) -> float:
    if snapshot.running_requests == 0:
        return 0.0
    return max(snapshot.round_s, float(curve.seconds_at(snapshot.running_requests)) + snapshot.draft_s)


def _prefill_s(snapshot: LoadSnapshot, curve: StepCostCurve, co_batch_tokens: Integers, prompt_tokens: int) -> Floats:
    """Chunks as large as the class allows and the curve has seen, each beside one row per running request."""
    chunk = np.minimum(co_batch_tokens, curve.tokens[-1])
    full, rest = np.divmod(snapshot.queued_tokens + prompt_tokens, chunk)
    beside = snapshot.running_requests
    last = np.where(rest > 0, curve.seconds_at(rest + beside), 0.0)
    return np.asarray(full * curve.seconds_at(chunk + beside) + last, dtype=np.float64)
