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
    """Depth caps and batch-class numbers of n candidates, [n] each."""

    depths: Integers
    co_batch_tokens: Integers
    prefill_share: Floats
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


def predict(snapshot: LoadSnapshot, grid: Grid, prompt_tokens: int, output_tokens: int, choices: int = 1) -> Prediction:
    """Expected times for one more request. TTFT never falls when the queue or the running requests grow.

    The curve must have two points or more. TPOT is for its choices running beside what runs, or for all places taken.
    TTFT is the wait for a free place, for company (batch class), for the round in flight, and for queue and prompt
    to be prefilled beside what runs.
    """
    curve = _curve(snapshot)
    places = snapshot.max_running_requests or snapshot.running_requests + choices
    tpot_s = _tpot_s(snapshot, curve, grid, min(snapshot.running_requests + choices, places))
    ttft_s = grid.wait_s + _round_in_flight_s(snapshot, curve) + _prefill_s(snapshot, curve, grid, prompt_tokens)
    ahead = snapshot.running_requests + snapshot.queued_requests + 1 - places
    if snapshot.max_running_requests and ahead > 0:
        # A place is free again once per expected answer's time, over the number of places.
        ttft_s = ttft_s + ahead * output_tokens * _tpot_s(snapshot, curve, grid, places) / places
    return Prediction(ttft_s, tpot_s, ttft_s + (output_tokens - 1) * tpot_s)


def _curve(snapshot: LoadSnapshot) -> StepCostCurve:
    tokens, seconds = zip(*snapshot.step_curve, strict=True)
    return StepCostCurve(tokens, seconds, snapshot.curve_version)


def _tpot_s(snapshot: LoadSnapshot, curve: StepCostCurve, grid: Grid, requests: int) -> Floats:
    """A round's time over the tokens it is expected to emit: (T(B) + draft) / τ(depth).

    Every request is taken to be at the candidate's depth, since a choice made for one is made for all like it, and
    the engine shares the class's co-batch cap equally among them: that share bounds the depth.
    """
    share = np.maximum(grid.co_batch_tokens // requests - 1, 0)
    depths = np.minimum(grid.depths, share)
    accepted = np.asarray(snapshot.acceptance_tokens or (1.0,))
    per_round = np.maximum(accepted[np.minimum(depths, accepted.size - 1)], 1.0)
    draft_s = np.where(depths > 0, snapshot.draft_s, 0.0)
    return np.asarray((curve.seconds_at(requests * (1 + depths)) + draft_s) / per_round, dtype=np.float64)


def _round_in_flight_s(snapshot: LoadSnapshot, curve: StepCostCurve) -> float:
    if snapshot.running_requests == 0:
        return 0.0
    return max(snapshot.round_s, float(curve.seconds_at(snapshot.running_requests)) + snapshot.draft_s)


def _prefill_s(snapshot: LoadSnapshot, curve: StepCostCurve, grid: Grid, prompt_tokens: int) -> Floats:
    """Queue and prompt in steps as large as the curve knows; beside running requests, in their prefill share.

    What the running requests' classes tolerate is not in the snapshot: the candidate's own numbers stand for it.
    """
    tokens = snapshot.queued_tokens + prompt_tokens
    alone_s = _chunked_s(curve, tokens, np.full(grid.depths.size, curve.tokens[-1]), 0)
    if snapshot.running_requests == 0:
        return alone_s
    chunk = np.maximum((grid.prefill_share * grid.co_batch_tokens).astype(np.int64), 1)
    chunk = np.minimum(chunk, curve.tokens[-1])
    return np.maximum(alone_s, _chunked_s(curve, tokens, chunk, snapshot.running_requests))


def _chunked_s(curve: StepCostCurve, tokens: int, chunk: Integers, beside: int) -> Floats:
    """Time of as many whole chunks as fit and one with the rest, each beside so many other tokens."""
    full, rest = np.divmod(tokens, chunk)
    last_s = np.where(rest > 0, curve.seconds_at(rest + beside), 0.0)
    return np.asarray(full * curve.seconds_at(chunk + beside) + last_s, dtype=np.float64)
