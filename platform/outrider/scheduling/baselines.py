"""Schedulers that ignore price: what adaptive ones are measured against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outrider.scheduling.scheduler import Bools, Budget, Floats, Ints, Requests, RoundCosts

__all__ = ["DepthTable", "FixedDepth", "NoDrafts", "Threshold", "everyone"]


def everyone(caps: Ints, costs: RoundCosts) -> Budget:
    """Draft for whoever may have a draft token verified."""
    drafted: Bools = caps > 0
    return Budget(drafted, draft_s=float(costs.draft(np.array([np.count_nonzero(drafted)]))[0]))


def _caps(requests: Requests) -> Ints:
    """Caps within equal shares of the step's room, int64 [R]."""
    if requests.room_tokens < 0:
        return requests.caps
    return np.minimum(requests.caps, requests.room_tokens // max(len(requests), 1))


def _proposed(survival: Floats, caps: Ints) -> Ints:
    """Slots with a token in them, within the caps, int64 [R]."""
    slots: Ints = np.minimum(np.count_nonzero(survival > 0, axis=1), caps)
    return slots


@dataclass(frozen=True, slots=True)
class NoDrafts:
    """Plain decoding."""

    name: str = "none"
    admissible: bool = True
    explores: bool = False
    paces: bool = False

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        """Nobody is drafted for."""
        del costs
        return Budget(np.zeros(len(requests), dtype=np.bool_), tokens=0)

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """No depth."""
        del costs, budget, survival
        return np.zeros(len(requests), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class FixedDepth:
    """The same depth for every request in every round."""

    depth: int
    admissible: bool = True
    explores: bool = False
    paces: bool = False

    @property
    def name(self) -> str:
        return f"fixed:{self.depth}"

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        """Everyone is drafted for."""
        return everyone(_caps(requests), costs)

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """The depth, or what was proposed if that is less."""
        del costs, budget
        return np.minimum(_proposed(survival, _caps(requests)), self.depth)


@dataclass(frozen=True, slots=True)
class Threshold:
    """As deep as prefix survival stays at the threshold or above, whatever the load."""

    least: float
    admissible: bool = True
    explores: bool = False
    paces: bool = False

    @property
    def name(self) -> str:
        return f"threshold:{self.least}"

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        """Everyone is drafted for."""
        return everyone(_caps(requests), costs)

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """Slots above the threshold; the depth of slot k looks at nothing drawn after slot k−1."""
        del costs, budget
        deep: Ints = np.count_nonzero(survival >= max(self.least, 1e-12), axis=1)
        return np.minimum(deep, _caps(requests))


@dataclass(frozen=True, slots=True)
class DepthTable:
    """Depth by number of decoding requests: ((requests up to, depth), …) ascending; beyond the last entry 0.

    At depth 0 nobody is drafted for.
    """

    steps: tuple[tuple[int, int], ...] = ((2, 7), (8, 5), (16, 3), (32, 1))
    admissible: bool = True
    explores: bool = False
    paces: bool = False

    @property
    def name(self) -> str:
        return "table:" + ",".join(f"{upto}={depth}" for upto, depth in self.steps)

    def depth(self, requests: int) -> int:
        """The entry for so many requests."""
        return next((depth for upto, depth in self.steps if requests <= upto), 0)

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        """Everyone or nobody."""
        if self.depth(len(requests)) == 0:
            return NoDrafts().budget(requests, costs)
        return everyone(_caps(requests), costs)

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """The table's depth."""
        return FixedDepth(self.depth(len(requests))).fill(requests, costs, budget, survival)
