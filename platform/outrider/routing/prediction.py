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
    """What a candidate is chosen by beside its replica: D depth caps, ascending, and numbers of C classes.

    Counts are whole, as floats: there is no conversion on the way. prefill_chunk: tokens of a prompt that a step which
    also decodes may take.
    """

    depths: Floats
    co_batch_tokens: Floats
    prefill_chunk: Floats
    wait_s: Floats

    @classmethod
    def of(cls, depths: Sequence[int], classes: Sequence[BatchClass]) -> Axes:
        """From values as the policy has them."""
        return cls(
            np.array(depths, dtype=np.float64),
            np.array([each.co_batch_tokens for each in classes], dtype=np.float64),
            np.array([max(1.0, each.prefill_share * each.co_batch_tokens // 1) for each in classes]),
            np.array([each.admission_wait_s for each in classes]),
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """R replicas as columns [R]; accepted: tokens a round emits by depth, [R, longest block + 1].

    Every replica's curve must have two points or more.
    """

    running: Floats
    queued: Floats
    queued_tokens: Floats
    places: Floats
    round_s: Floats
    draft_s: Floats
    largest_step: Floats
    accepted: Floats
    curve_tokens: Floats
    curve_s: Floats

    @classmethod
    def of(cls, snapshots: Sequence[LoadSnapshot]) -> Fleet:
        """Columns of the replicas' newest loads."""
        rows = [
            (
                s.running_requests, s.queued_requests, s.queued_tokens, s.max_running_requests, s.step_curve[-1][0],
                s.round_s, s.draft_s,
            )
            for s in snapshots
        ]  # fmt: skip
        curves = [_knots(s.step_curve) for s in snapshots]
        knots = np.concatenate(curves, axis=1)
        knots[0] += np.repeat(np.arange(len(curves)) * _SPACING, [curve.shape[1] for curve in curves])
        running, queued, queued_tokens, places, largest, round_s, draft_s = np.array(rows, dtype=np.float64).T
        accepted = _accepted([s.acceptance_tokens or (1.0,) for s in snapshots])
        return cls(running, queued, queued_tokens, places, round_s, draft_s, largest, accepted, knots[0], knots[1])

    def step_s(self, tokens: Floats) -> Floats:
        """Seconds of steps over so many tokens; both are [R, n]. One call for all sizes is cheapest."""
        starts = np.arange(len(self.running), dtype=np.float64)[:, None] * _SPACING
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
    """Seconds to the first token, float64 [R, C, 1], and per token after it, [R, C, D]."""

    ttft_s: Floats
    tpot_s: Floats


def predict(
    fleet: Fleet, axes: Axes, prompt_tokens: Floats, output_tokens: Floats, choices: int = 1,
    accepted_ratio: Floats | None = None,
) -> Prediction:  # fmt: skip
    """Raw times of one more request; prompt_tokens (not cached), output_tokens, accepted_ratio: [R].

    TTFT is the wait for a free place, for the round in flight or, where nobody runs, for company (batch class), and for
    queue and prompt to be prefilled beside what runs. It never falls when the queue grows, nor when more run where
    some do. TPOT is with its choices running beside what runs, or with all places taken.
    """
    places = np.where(fleet.places > 0, fleet.places, fleet.running + choices)
    beside = np.minimum(fleet.running + choices, places)
    accepted = fleet.accepted
    if accepted_ratio is not None:
        accepted = 1.0 + (accepted - 1.0) * accepted_ratio[:, None]
    ahead = fleet.running + fleet.queued + 1 - places
    waits = (ahead > 0) & (fleet.places > 0)
    crowds = [_Rounds.of(axes.depths, axes.co_batch_tokens, beside)]
    if waits.any():
        crowds.append(_Rounds.of(axes.depths, axes.co_batch_tokens[:1], places))
    prefill = _Prefill.of(fleet, axes, prompt_tokens)
    parts = [crowd.sizes.reshape(len(places), -1) for crowd in crowds]
    times = fleet.step_s(np.concatenate([fleet.running[:, None], prefill.sizes, *parts], axis=1))
    at = 1 + prefill.sizes.shape[1]
    round_s = np.maximum(fleet.round_s, times[:, 0] + fleet.draft_s)
    before_s = np.where(fleet.running[:, None] > 0, round_s[:, None], axes.wait_s)
    ttft_s = (before_s + prefill.seconds(times[:, 1:at], fleet.running))[:, :, None]
    tpots_s = []
    for crowd in crowds:
        tpots_s.append(crowd.per_token_s(times[:, at : at + crowd.sizes[0].size], fleet.draft_s, accepted))
        at += crowd.sizes[0].size
    if waits.any():
        # A place is free again once per expected answer's time, over the number of places.
        # Whose they are is not known: they are taken to be of the first class, at its best depth.
        wait = np.where(waits, ahead, 0.0) * output_tokens / places
        ttft_s += wait[:, None, None] * tpots_s[1].min(axis=2, keepdims=True)
    return Prediction(ttft_s, tpots_s[0])


@dataclass(frozen=True, slots=True)
class _Rounds:
    """Decoding rounds [R, C, D] with so many requests running: the depth of all, and the tokens of a step.

    Every request is taken to be at the candidate's depth, since a choice made for one is made for all like it, and the
    engine shares the class's co-batch cap equally among them: that share bounds the depth.
    """

    depths: Floats
    sizes: Floats

    @classmethod
    def of(cls, caps: Floats, co_batch_tokens: Floats, requests: Floats) -> _Rounds:
        share = np.maximum(np.floor(co_batch_tokens / requests[:, None]) - 1.0, 0.0)
        depths = np.minimum(caps, share[:, :, None])
        return cls(depths, (depths + 1.0) * requests[:, None, None])

    def per_token_s(self, step_s: Floats, draft_s: Floats, accepted: Floats) -> Floats:
        """A round's time over the tokens it should emit, (T(B) + draft) / τ, at the best depth up to each cap."""
        index = np.minimum(self.depths, accepted.shape[1] - 1).astype(np.intp)
        index += (np.arange(len(accepted)) * accepted.shape[1])[:, None, None]
        round_s = step_s.reshape(self.depths.shape) + (self.depths > 0) * draft_s[:, None, None]
        at_depth = round_s / accepted.take(index)
        best = np.minimum.accumulate(at_depth, axis=2)
        found: Floats = best + _REGRET * (at_depth - best)
        return found


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Queue and prompt in whole steps and one with the rest: of all tokens a step takes, first alone, then by class.

    Beside running requests a prompt gets its class's share of a step. What their classes tolerate is not in the
    snapshot: the candidate's own numbers stand for it. sizes [R, 2 (1 + C)]: whole steps, then rests; full [R, 1 + C].
    """

    full: Floats
    rest: Floats
    sizes: Floats

    @classmethod
    def of(cls, fleet: Fleet, axes: Axes, prompt_tokens: Floats) -> _Prefill:
        largest = fleet.largest_step[:, None]
        chunk = np.concatenate([largest, np.minimum(axes.prefill_chunk, largest)], axis=1)
        tokens = (fleet.queued_tokens + prompt_tokens)[:, None]
        full = np.floor(tokens / chunk)
        rest = tokens - full * chunk
        sizes = np.concatenate([chunk, rest], axis=1)
        beside = fleet.running[:, None]
        sizes[:, 1 : chunk.shape[1]] += beside
        sizes[:, chunk.shape[1] + 1 :] += beside
        return cls(full, rest, sizes)

    def seconds(self, step_s: Floats, running: Floats) -> Floats:
        """[R, C]."""
        ways = self.full.shape[1]
        took_s = self.full * step_s[:, :ways] + (self.rest > 0) * step_s[:, ways:]
        alone_s = took_s[:, :1]
        found: Floats = np.where(running[:, None] > 0, np.maximum(alone_s, took_s[:, 1:]), alone_s)
        return found
