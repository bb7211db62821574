"""Costs as real rounds show them: measured curves corrected slowly, and how well they foretold the rounds."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict, deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from outrider.engine.load import RoundTimes, Smoothed, Typical
from outrider.scheduling import CostModel, StepCostCurve

__all__ = ["Refinement", "RoundShape"]

_RECENT = 31
_KNOWN = 8
"""Samples of a size before it is corrected."""
_EXPIRED = 256
"""A sample so many samples ago is forgotten: what a size took under another load says nothing of it now."""
_SAMPLED = 8
"""One round in so many is looked at: looking takes 60 µs between steps that leave no cache to Python."""
_EVERY_SAMPLES = 8
_STEP = 0.2
"""Largest move of a factor's logarithm between two models."""
_BOUND = math.log(3.0)
"""A curve that is further off is measured again, not corrected."""
_OUTLIER = math.log(4.0)
_COLD_ROUNDS = 3
_ERROR_WEIGHT = 0.05
_WORST_MISS = 3.0
_NOTICEABLE = 0.03


@dataclass(frozen=True, slots=True)
class RoundShape:
    """What of a round its costs depend on: tokens of the step, decoding requests and their mean context, how many of
    them were drafted for, and the context rows caught up.
    """

    tokens: int
    requests: int
    context_tokens: float
    drafted: int
    rows: int

    @property
    def kind(self) -> tuple[bool, int]:
        """Drafted or not, and requests to the next power of two."""
        return self.drafted > 0, self.requests.bit_length()


class _Factors:
    """Logarithms of real ÷ measured for each point of a curve; medians of the last samples, moved slowly.

    Points that nobody asked for lately take what their neighbours have: a busy host slows every size.
    """

    def __init__(self, curve: StepCostCurve) -> None:
        self._sizes = [math.log(size) for size in curve.tokens]
        self._edges = [math.exp((one + other) / 2) for one, other in pairwise(self._sizes)]
        self._recent: list[deque[tuple[int, float]]] = [deque(maxlen=_RECENT) for _ in self._sizes]
        """(number of the sample, logarithm)."""
        self._samples = 0
        self._logs = [0.0] * len(self._sizes)
        self._outliers = 0

    @property
    def values(self) -> list[float]:
        return [math.exp(log) for log in self._logs]

    @property
    def at_bound(self) -> bool:
        """Whether some size is further off than may be corrected."""
        return any(abs(each) > _BOUND for each in self._medians().values())

    def add(self, size: int, ratio: float) -> None:
        """A sample of real ÷ measured. One far from what is known is left out, unless such come one after another."""
        place, log = bisect_left(self._edges, size), math.log(ratio)
        if abs(log - self._logs[place]) > _OUTLIER:
            self._outliers += 1
            if self._outliers <= _KNOWN:
                return
        else:
            self._outliers = 0
        self._samples += 1
        self._recent[place].append((self._samples, log))
        for recent in self._recent:
            while recent and recent[0][0] + _EXPIRED <= self._samples:
                recent.popleft()

    def _medians(self) -> dict[int, float]:
        """By place, of sizes with enough samples."""
        known = ((place, recent) for place, recent in enumerate(self._recent) if len(recent) >= _KNOWN)
        return {place: median(log for _, log in recent) for place, recent in known}

    def move(self) -> bool:
        """Follow the medians by one step; whether that is worth another model."""
        known = self._medians()
        if not known:
            return False
        medians = [min(max(each, -_BOUND), _BOUND) for each in known.values()]
        wanted = np.interp(self._sizes, [self._sizes[place] for place in known], medians)
        moves = [min(max(goal - log, -_STEP), _STEP) for goal, log in zip(wanted.tolist(), self._logs, strict=True)]
        if max(abs(move) for move in moves) < _NOTICEABLE:
            return False
        self._logs = [log + move for log, move in zip(self._logs, moves, strict=True)]
        return True


class Refinement:
    """Corrects one measured model by a sample of real rounds, each foretold before it is taken in.

    bias and error: mean of (predicted − real) ÷ real over recent samples, signed and absolute. What a round takes
    beside draft and step is not measured beforehand: it is the median of recent rounds like it.
    """

    def __init__(self, measured: CostModel) -> None:
        self.measured = measured
        self.costs = measured
        self.bias, self.error = Smoothed(_ERROR_WEIGHT), Smoothed(_ERROR_WEIGHT)
        self._rest: defaultdict[tuple[bool, int], Typical] = defaultdict(Typical)
        self._verify = _Factors(measured.verify[0][1])
        self._draft = None if measured.draft is None else _Factors(measured.draft)
        self._cold = _COLD_ROUNDS
        self._rounds = self._samples = 0

    @property
    def drifted(self) -> bool:
        """Whether rounds differ so much from what was measured that it has to be measured again."""
        return self._verify.at_bound or (self._draft is not None and self._draft.at_bound)

    def cool(self) -> None:
        """The next rounds are cold: the engine paused, or its step was replaced."""
        self._cold = _COLD_ROUNDS

    def due(self) -> bool:
        """Whether to look at the round that just went by: one in eight, and none that is cold."""
        if self._cold:
            self._cold -= 1
            return False
        self._rounds += 1
        return self._rounds % _SAMPLED == 0

    def predicted_s(self, shape: RoundShape) -> float:
        """Seconds of a round; 0 where nothing is known of one like it."""
        rest = self._rest[shape.kind]
        if not rest.samples or (shape.drafted and self.costs.draft is None):
            return 0.0
        draft_s = self.costs.draft_s(shape.drafted, shape.rows) if shape.drafted else 0.0
        return self.costs.step(shape.context_tokens).step_s(shape.tokens) + draft_s + rest.value

    def add(self, shape: RoundShape, times: RoundTimes) -> bool:
        """Take in a round that was due; whether `costs` is another model from now on."""
        if times.predicted_s:
            miss = min(times.predicted_s / times.whole_s - 1.0, _WORST_MISS)
            self.bias.add(miss)
            self.error.add(abs(miss))
        self._rest[shape.kind].add(max(0.0, times.schedule_s + times.commit_s))
        self._verify.add(shape.tokens, times.run_s / self.measured.step(shape.context_tokens).step_s(shape.tokens))
        if self._draft is not None and shape.drafted:
            self._draft.add(shape.drafted, times.draft_s / self.measured.draft_s(shape.drafted, shape.rows))
        self._samples += 1
        return self._samples % _EVERY_SAMPLES == 0 and self._move()

    def _move(self) -> bool:
        moved = self._verify.move()
        moved = (self._draft is not None and self._draft.move()) or moved
        if moved:
            self.costs = self.measured.scaled(self._verify.values, self._draft.values if self._draft else ())
        return moved
