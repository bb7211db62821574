"""How long a request would take on R replicas, in C batch classes at D depth caps: arrays [R, C, D], no loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.types import BatchClass, LoadSnapshot

__all__ = ["Axes", "Fleet", "Floats", "Integers", "Prediction", "predict", "table"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Curve = tuple[tuple[int, float], ...]

_SPACING = float(1 << 24)
"""Curves of all replicas are laid end to end on one axis, this many tokens apart: one interpolation serves all."""

_REGRET = 0.01
"""Share of the loss at a depth that is too large which a request is taken to bear.

A cap is a bound and not a depth: the engine trims every round by its live price. But it probes now and then.
"""

_MOST_CURVES = 512
_LOAD = attrgetter(
    "running_requests", "queued_requests", "queued_tokens", "max_running_requests", "round_s", "draft_s",
    "pace_s", "pace_requests",
)  # fmt: skip
_OFF = (1 / 16, 64.0)
"""A pace that is further from what the curves say says something else."""


def table(rows: Iterable[Sequence[float]], width: int) -> Floats:
    """Rows of numbers as columns [width, rows]."""
    return np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, width).T


@dataclass(frozen=True, slots=True)
class Axes:
    """What a candidate is chosen by beside its replica: D depth caps, ascending, and numbers of C classes.

    Tokens are whole, as floats: there is no conversion on the way. prefill_chunk: tokens of a prompt that a step which
    also decodes may take.
    """

    depths: Integers
    co_batch_tokens: Floats
    prefill_chunk: Floats
    wait_s: Floats

    @classmethod
    def of(cls, depths: Sequence[int], classes: Sequence[BatchClass]) -> Axes:
        """From values as the policy has them."""
        return cls(
            np.array(depths, dtype=np.int64),
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
    pace_s: Floats
    pace_requests: Floats
    largest_step: Floats
    accepted: Floats
    curve_tokens: Floats
    curve_s: Floats

    @classmethod
    def of(cls, snapshots: Sequence[LoadSnapshot]) -> Fleet:
        """Columns of the replicas' newest loads."""
        count, curves = len(snapshots), [each.step_curve for each in snapshots]
        knots = [_knots(curve) for curve in curves]
        tokens, seconds = np.concatenate(knots, axis=1)
        tokens += np.repeat(_offsets(count, _SPACING), [each.shape[1] for each in knots])
        largest = np.fromiter((curve[-1][0] for curve in curves), np.float64, count)
        accepted = _accepted([each.acceptance_tokens or (1.0,) for each in snapshots])
        running, queued, queued_tokens, places, round_s, draft_s, pace_s, crowd = table(map(_LOAD, snapshots), 8)
        return cls(
            running, queued, queued_tokens, places, round_s, draft_s, pace_s, crowd, largest, accepted, tokens, seconds
        )

    def step_s(self, tokens: Floats) -> Floats:
        """Seconds of steps over so many tokens; both are [R, n]. One call for all sizes is cheapest."""
        starts = _offsets(len(self.running), _SPACING)[:, None]
        found: Floats = np.interp(tokens + starts, self.curve_tokens, self.curve_s)
        return found


@lru_cache(maxsize=64)
def _offsets(count: int, spacing: float) -> NDArray[Any]:
    found: NDArray[Any] = np.arange(count) * spacing
    found.setflags(write=False)
    return found


class _Knots:
    """A curve's points [2, K + 2], with one before the first (flat) and one far out on the last slope.

    Found by the curve's identity: hashing its numbers for every decision costs more than all else that is done with it.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[Curve, Floats]] = {}

    def __call__(self, curve: Curve) -> Floats:
        found = self._found.get(id(curve))
        if found is None:
            if len(self._found) >= _MOST_CURVES:
                self._found.clear()
            found = self._found[id(curve)] = curve, self._made(curve)  # holding the curve keeps its id its own
        return found[1]

    @staticmethod
    def _made(curve: Curve) -> Floats:
        (left, before), (right, after) = curve[-2:]
        end = _SPACING - 1.0
        far_s = after + (end - right) * (after - before) / (right - left)
        return table(((0.0, curve[0][1]), *curve, (end, far_s)), 2)


_knots = _Knots()


def _accepted(rows: Sequence[tuple[float, ...]]) -> Floats:
    longest = max(map(len, rows))
    whole = (row if len(row) == longest else row + row[-1:] * (longest - len(row)) for row in rows)
    return np.maximum(table(whole, longest).T, 1.0)


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
    some do. TPOT is with its choices running beside what runs and what is ahead of it, or with all places taken.
    """
    running, limited = fleet.running, fleet.places > 0
    ahead = running + fleet.queued
    places = np.where(limited, fleet.places, ahead + choices)
    beside = np.minimum(ahead + choices, places)
    waiting = np.maximum((ahead + 1 - places) * limited, 0.0)
    prefill = _Prefill.of(fleet, axes, prompt_tokens)
    crowds = np.stack((beside, places, np.maximum(fleet.pace_requests, 1.0)), axis=1)
    most = int(axes.depths[-1])
    sizes = crowds[:, :, None] * (_reach(max(most + 1, fleet.accepted.shape[1])) + 1)
    asked = (running[:, None], prefill.sizes, sizes.reshape(len(sizes), -1))
    times = fleet.step_s(np.concatenate(asked, axis=1))
    at = 1 + prefill.sizes.shape[1]
    best, paces = _paces_s(times[:, at:].reshape(sizes.shape), fleet, accepted_ratio)
    round_s = np.maximum(fleet.round_s, times[:, 0] + fleet.draft_s)
    busy = (running > 0)[:, None]
    ttft_s = np.where(busy, round_s[:, None], axes.wait_s)
    ttft_s += prefill.seconds(times[:, 1:at], busy)
    if waiting.any():
        # A place is free again once per expected answer's time, over the number of places.
        # Whose they are is not known: they are taken to be of the first class, at its best depth.
        deepest = np.minimum(most, _share(axes.co_batch_tokens[:1], places)[:, 0])
        ttft_s += (waiting * output_tokens / places * best[np.arange(len(best)), 1, deepest])[:, None]
    depths = np.minimum(axes.depths, _share(axes.co_batch_tokens, beside)[:, :, None])
    depths += _offsets(len(paces), paces[0].size)[:, None, None]
    return Prediction(ttft_s[:, :, None], paces.take(depths))


def _share(co_batch_tokens: Floats, requests: Floats) -> Integers:
    """[R, C]: the depth that so many requests can have together, in each class: the engine shares its cap equally.

    Every request is taken to be at the candidate's depth, since a choice made for one is made for all like it.
    """
    share = co_batch_tokens // requests[:, None] - 1.0
    return np.maximum(share, 0.0).astype(np.int64)


def _paces_s(step_s: Floats, fleet: Fleet, accepted_ratio: Floats | None) -> tuple[Floats, Floats]:
    """Seconds per token with every depth from 0 as the cap, from the steps' times, which are used up; all [R, 3, N].

    Of the three crowds the last is who ran lately: what they really took, over what the curves say of them, scales all.
    In it is what the curves leave out: prompts beside, the host's own time, a neighbour on the same cores. A round's
    time over the tokens it should emit, (T(B) + draft) / τ: at the best depth up to each cap, and with the regret of a
    cap that is too large.
    """
    columns, depths = fleet.accepted, step_s.shape[2]
    if columns.shape[1] < depths:
        columns = columns[:, np.minimum(_reach(depths), columns.shape[1] - 1)]
    step_s[:, :, 1:] += fleet.draft_s[:, None, None]
    if accepted_ratio is None:
        step_s /= columns[:, None, :]
    else:
        step_s[:, 2] /= columns
        step_s[:, :2] /= (1.0 + (columns - 1.0) * accepted_ratio[:, None])[:, None, :]
    best = np.minimum.accumulate(step_s, axis=2)
    step_s -= best
    step_s *= _REGRET
    step_s += best
    lately_s = best[:, 2, -1]
    off = np.clip(np.where(fleet.pace_s > 0, fleet.pace_s, lately_s) / lately_s, *_OFF)[:, None, None]
    best *= off
    step_s *= off
    return best, step_s


@lru_cache(maxsize=64)
def _reach(depths: int) -> Integers:
    return np.arange(depths)


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Queue and prompt in whole steps and one with the rest: of all tokens a step takes, first alone, then by class.

    Beside running requests a prompt gets its class's share of a step. What their classes tolerate is not in the
    snapshot: the candidate's own numbers stand for it. sizes [R, 2 (1 + C)]: whole steps, then rests; full [R, 1 + C].
    """

    full: Floats
    left: NDArray[np.bool_]
    """[R, 1 + C]: where a rest is left."""
    sizes: Floats

    @classmethod
    def of(cls, fleet: Fleet, axes: Axes, prompt_tokens: Floats) -> _Prefill:
        ways = 1 + axes.prefill_chunk.size
        sizes = np.empty((len(prompt_tokens), 2, ways))
        chunk, rest = sizes[:, 0], sizes[:, 1]
        chunk[:, 0] = fleet.largest_step
        np.minimum(axes.prefill_chunk, chunk[:, :1], out=chunk[:, 1:])
        tokens = (fleet.queued_tokens + prompt_tokens)[:, None]
        full = np.empty(chunk.shape)
        np.divmod(tokens, chunk, out=(full, rest))
        left = rest > 0
        sizes[:, :, 1:] += fleet.running[:, None, None]
        return cls(full, left, sizes.reshape(-1, 2 * ways))

    def seconds(self, step_s: Floats, busy: NDArray[np.bool_]) -> Floats:
        """[R, C]; busy [R, 1]: where somebody runs."""
        ways = self.full.shape[1]
        took_s = self.full * step_s[:, :ways]
        took_s += self.left * step_s[:, ways:]
        alone_s = took_s[:, :1]
        found: Floats = np.where(busy, np.maximum(alone_s, took_s[:, 1:]), alone_s)
        return found
