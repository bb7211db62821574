"""How long a request would take on R replicas, in C batch classes at D depth caps: arrays [R, C, D], no loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from outrider.types import BatchClass, LoadSnapshot

__all__ = ["Axes", "Fleet", "Floats", "Integers", "Prediction", "predict"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_SPACING = float(1 << 24)
"""Curves of all replicas are laid end to end on one axis, this many tokens apart: one interpolation serves all."""

_REGRET = 0.01
"""Share of the loss at a depth that is too large which a request is taken to bear.

A cap is a bound and not a depth: the engine trims every round by its live price. But it probes now and then.
"""


@dataclass(frozen=True, slots=True)
class Axes:
    """What a candidate is chosen by beside its replica: D depth caps, ascending from 0, and numbers of C classes."""

    depths: Integers
    co_batch_tokens: Integers
    prefill_share: Floats
    wait_s: Floats

    @classmethod
    def of(cls, depths: Sequence[int], classes: Sequence[BatchClass]) -> Axes:
        """From values as the policy has them."""
        return cls(
            np.array(depths, dtype=np.int64),
            np.array([each.co_batch_tokens for each in classes], dtype=np.int64),
            np.array([each.prefill_share for each in classes]),
            np.array([each.admission_wait_s for each in classes]),
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """R replicas as columns [R]; accepted: tokens a round emits by depth, [R, longest block + 1].

    Every replica's curve must have two points or more.
    """

    running: Integers
    queued: Integers
    queued_tokens: Integers
    places: Integers
    round_s: Floats
    draft_s: Floats
    largest_step: Integers
    accepted: Floats
    curve_tokens: Floats
    curve_s: Floats

    @classmethod
    def of(cls, snapshots: Sequence[LoadSnapshot]) -> Fleet:
        """Columns of the replicas' newest loads."""
        counts = np.array(
            [
                (s.running_requests, s.queued_requests, s.queued_tokens, s.max_running_requests, s.step_curve[-1][0])
                for s in snapshots
            ],
            dtype=np.int64,
        )
        times = np.array([(s.round_s, s.draft_s) for s in snapshots])
        curves = [_knots(s.step_curve) for s in snapshots]
        starts = np.arange(len(snapshots)) * _SPACING
        sizes = [curve.shape[1] for curve in curves]
        knots = np.concatenate(curves, axis=1)
        knots[0] += np.repeat(starts, sizes)
        running, queued, queued_tokens, places, largest = counts.T
        return cls(
            running, queued, queued_tokens, places, times[:, 0], times[:, 1], largest,
            _accepted([s.acceptance_tokens or (1.0,) for s in snapshots]), knots[0], knots[1],
        )  # fmt: skip

    def step_s(self, tokens: Integers) -> Floats:
        """Seconds of a step over so many tokens; `tokens` is [R, …]."""
        starts = (np.arange(len(self.running)) * _SPACING).reshape(-1, *(1,) * (tokens.ndim - 1))
        found: Floats = np.interp(tokens + starts, self.curve_tokens, self.curve_s)
        return found


@lru_cache(maxsize=512)
def _knots(curve: tuple[tuple[int, float], ...]) -> Floats:
    """A curve's points [2, K + 2], with one before the first (flat) and one far out on the last slope."""
    points = np.array(curve, dtype=np.float64).T
    (left, before), (right, after) = curve[-2:]
    end = _SPACING - 1.0
    far_s = after + (end - right) * (after - before) / (right - left)
    return np.concatenate([[[0.0], [points[1, 0]]], points, [[end], [far_s]]], axis=1)


def _accepted(rows: Sequence[tuple[float, ...]]) -> Floats:
    longest = max(map(len, rows))
    found: Floats = np.maximum(np.array([row + row[-1:] * (longest - len(row)) for row in rows]), 1.0)
    return found


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds, float64 [R, C, D] each: to the first token, and per token after it."""

    ttft_s: Floats
    tpot_s: Floats


def predict(
    fleet: Fleet, axes: Axes, prompt_tokens: Integers, output_tokens: Integers, choices: int = 1,
    accepted_ratio: Floats | None = None,
) -> Prediction:  # fmt: skip
    """Raw times of one more request; prompt_tokens (not cached), output_tokens, accepted_ratio: [R].

    TTFT never falls when the queue or the running requests grow. It is the wait for a free place, for company (batch
    class), for the round in flight, and for queue and prompt to be prefilled beside what runs. TPOT is with its
    choices running beside what runs, or with all places taken.
    """
    crowd = fleet.running + choices
    places = np.where(fleet.places > 0, fleet.places, crowd)
    accepted = fleet.accepted
    if accepted_ratio is not None:
        accepted = 1.0 + (accepted - 1.0) * accepted_ratio[:, None]
    tpot_s = _tpot_s(fleet, axes, accepted, np.minimum(crowd, places))
    ttft_s = (_round_in_flight_s(fleet)[:, None] + _prefill_s(fleet, axes, prompt_tokens) + axes.wait_s)[:, :, None]
    ahead = fleet.running + fleet.queued + 1 - places
    if (waits := (ahead > 0) & (fleet.places > 0)).any():
        # A place is free again once per expected answer's time, over the number of places.
        wait = np.where(waits, ahead, 0) * output_tokens / places
        ttft_s = ttft_s + wait[:, None, None] * _tpot_s(fleet, axes, accepted, places)
    return Prediction(np.broadcast_to(ttft_s, tpot_s.shape), tpot_s)


def _tpot_s(fleet: Fleet, axes: Axes, accepted: Floats, requests: Integers) -> Floats:
    """A round's time over the tokens it is expected to emit, (T(B) + draft) / τ, at the best depth up to each cap.

    At a depth every request is taken to be at it, since a choice made for one is made for all like it, and the engine
    shares the class's co-batch cap equally among them: that share bounds the depth.
    """
    share = np.maximum(axes.co_batch_tokens // requests[:, None] - 1, 0)
    depths = np.minimum(axes.depths, share[:, :, None])
    per_round = accepted[np.arange(len(requests))[:, None, None], np.minimum(depths, accepted.shape[1] - 1)]
    round_s = fleet.step_s(requests[:, None, None] * (1 + depths)) + np.where(
        depths > 0, fleet.draft_s[:, None, None], 0.0
    )
    at_depth = round_s / per_round
    best = np.minimum.accumulate(at_depth, axis=2)
    found: Floats = best + _REGRET * (at_depth - best)
    return found


def _round_in_flight_s(fleet: Fleet) -> Floats:
    told = np.maximum(fleet.round_s, fleet.step_s(fleet.running) + fleet.draft_s)
    found: Floats = np.where(fleet.running > 0, told, 0.0)
    return found


def _prefill_s(fleet: Fleet, axes: Axes, prompt_tokens: Integers) -> Floats:
    """[R, C]: queue and prompt in steps as large as the curve knows; beside running requests, in their prefill share.

    What the running requests' classes tolerate is not in the snapshot: the candidate's own numbers stand for it.
    """
    tokens = (fleet.queued_tokens + prompt_tokens)[:, None]
    largest = fleet.largest_step[:, None]
    alone_s = _chunked_s(fleet, tokens, largest, np.zeros_like(largest))
    chunk = np.maximum((axes.prefill_share * axes.co_batch_tokens).astype(np.int64), 1)
    beside_s = _chunked_s(fleet, tokens, np.minimum(chunk, largest), fleet.running[:, None])
    found: Floats = np.where(fleet.running[:, None] > 0, np.maximum(alone_s, beside_s), alone_s)
    return found


def _chunked_s(fleet: Fleet, tokens: Integers, chunk: Integers, beside: Integers) -> Floats:
    """Time of as many whole chunks as fit and one with the rest, each beside so many other tokens."""
    full, rest = np.divmod(tokens, chunk)
    sizes = np.stack(np.broadcast_arrays(chunk + beside, rest + beside), axis=-1)
    times = fleet.step_s(sizes)
    found: Floats = full * times[..., 0] + np.where(rest > 0, times[..., 1], 0.0)
    return found
