"""Schedulers that look plausible and are not lossless under rejection: each lets {ℓ ≥ k} depend on x_k or later."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from outrider.scheduling import Asynchronous, Budget, Constrained, FixedDepth, Requests, RoundCosts
from outrider.scheduling.asynchronous import best_budget
from outrider.scheduling.scheduler import Floats, Ints, candidates, depths_of
from support.worlds import Tokens

__all__ = [
    "AbandonsPoorBlocks",
    "CappedFloors",
    "CutsAtUnchoosable",
    "LiveArgmax",
    "LiveBudget",
    "ReleasedFloors",
    "Retracts",
    "TiesByToken",
    "WholeStairs",
]


def _theta(requests: Requests, costs: RoundCosts, budget: Budget, gains: Floats) -> Floats:
    """Θ after 0, 1, … of the candidates, as Algorithm 1 computes it."""
    emitted = requests.weights.sum() + np.concatenate(([0.0], np.cumsum(gains)))
    return np.asarray(emitted / (costs.drafted_s + budget.draft_s + costs.verify_s(len(requests), len(gains))))


@dataclass(frozen=True)
class _Forbidden:
    """Drafts for everyone; `fill` is the subclass's."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def admissible(self) -> bool:
        return False

    @property
    def explores(self) -> bool:
        return False

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        return FixedDepth(1).budget(requests, costs)


@dataclass(frozen=True)
class LiveArgmax(_Forbidden):
    """Algorithm 1 that goes on past a fall of Θ and takes the best point of the whole order."""

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        gains, owners = candidates(requests.weights[:, None] * survival, requests.caps)
        return depths_of(owners[: int(_theta(requests, costs, budget, gains).argmax())], len(requests))


@dataclass(frozen=True)
class LiveBudget(_Forbidden):
    """The asynchronous scheduler with this round's confidences where the last rounds' belong."""

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        live = best_budget(replace(requests, expected=survival), costs)
        return Asynchronous().fill(requests, costs, live, survival)


@dataclass(frozen=True)
class WholeStairs(_Forbidden):
    """Algorithm 1 that is not stuck at an edge: it admits all up to the hull's next edge if that raises Θ."""

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        gains, owners = candidates(requests.weights[:, None] * survival, requests.caps)
        theta = _theta(requests, costs, budget, gains)
        start = costs.other_tokens + len(requests)
        edges = [edge - start for edge in costs.step.hull.tokens if 0 < edge - start < len(gains)] + [len(gains)]
        admitted = 0
        for edge in edges:
            if theta[edge] <= theta[admitted]:
                break
            admitted = edge
        return depths_of(owners[:admitted], len(requests))


@dataclass(frozen=True)
class AbandonsPoorBlocks(_Forbidden):
    """Looks at the finished block and verifies all of it or nothing."""

    least: float = 2.0

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        proposed = FixedDepth(survival.shape[1]).fill(requests, costs, budget, survival)
        return np.where(1.0 + survival.sum(axis=1) >= self.least, proposed, 0)


@dataclass(frozen=True)
class Retracts(_Forbidden):
    """Admits a token, then takes it back because what follows it will not survive."""

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        depths = FixedDepth(1).fill(requests, costs, budget, survival)
        return np.where(survival[:, 1] > 0, depths, 0)


def _reach(requests: Requests, survival: Floats) -> Floats:
    """Live 1 + Σ_{j≤cap} a_j."""
    inside = np.arange(survival.shape[1]) < requests.caps[:, None]
    return np.asarray(1.0 + np.where(inside, survival, 0.0).sum(axis=1))


@dataclass(frozen=True)
class CappedFloors(_Forbidden):
    """Floors capped at what the drafted block can reach, and then served most needed first.

    The cap alone would be harmless: 1 + Σ_{j<k} a_j < 1 + Σ_j a_j says no more than a_k > 0. The order leaks.
    """

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        capped = np.minimum(requests.needed, _reach(requests, survival))
        return Constrained().fill(replace(requests, needed=capped), costs, budget, survival)


@dataclass(frozen=True)
class ReleasedFloors(_Forbidden):
    """Floors given up where the drafted block cannot reach them."""

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        kept = np.where(_reach(requests, survival) >= requests.needed, requests.needed, 0.0)
        return Constrained().fill(replace(requests, needed=kept), costs, budget, survival)


@dataclass(frozen=True)
class TiesByToken(_Forbidden):
    """Verifies one token in all; among equals that of the smallest id."""

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        raise NotImplementedError("asked through fill_seeing")

    def fill_seeing(
        self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats, blocks: tuple[Tokens, ...]
    ) -> Ints:
        keys = [
            (-survival[r, 0], block[0], r)
            for r, block in enumerate(blocks)
            if block and min(requests.caps[r], survival[r, 0]) > 0
        ]
        return depths_of(np.array([min(keys)[2]] if keys else [], dtype=np.int64), len(requests))


@dataclass(frozen=True)
class CutsAtUnchoosable(_Forbidden):
    """Cuts a block before a token that the target is not allowed to choose, as a grammar's cap would."""

    token: int = 2

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        raise NotImplementedError("asked through fill_seeing")

    def fill_seeing(
        self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats, blocks: tuple[Tokens, ...]
    ) -> Ints:
        choosable = np.array([(*block, self.token).index(self.token) for block in blocks])
        return FixedDepth(survival.shape[1]).fill(
            replace(requests, caps=np.minimum(requests.caps, choosable)), costs, budget, survival
        )
