"""Exact joint output distributions of speculative decoding under rejection, by enumeration in float64.

Every block that may be drafted, every acceptance and every residual or bonus draw is followed with its probability;
the scheduler is asked exactly as the engine asks it. Independent noise in every round is taken for granted here:
`support.keyed_noise` does without.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import numpy as np

from outrider.scheduling import Budget, PrefixScheduler, Requests, RoundCosts
from outrider.scheduling.scheduler import Floats, Ints
from support.worlds import Tokens, World

__all__ = ["Enumeration", "SeesTokens", "admitted_depths", "error_of", "residual", "target_joint"]


@runtime_checkable
class SeesTokens(Protocol):
    """A forbidden scheduler that looks at the drafted tokens themselves."""

    def fill_seeing(
        self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats, blocks: tuple[Tokens, ...]
    ) -> Ints: ...


def admitted_depths(
    strategy: PrefixScheduler,
    requests: Requests,
    costs: RoundCosts,
    budget: Budget,
    survival: Floats,
    blocks: tuple[Tokens, ...],
) -> list[int]:
    """The scheduler's depths, checked: whole numbers within the caps and what was drafted."""
    if isinstance(strategy, SeesTokens):
        depths = strategy.fill_seeing(requests, costs, budget, survival, blocks)
    else:
        depths = strategy.fill(requests, costs, budget, survival)
    found: list[int] = depths.tolist()
    assert len(found) == len(blocks)
    for depth, cap, block in zip(found, requests.caps, blocks, strict=True):
        assert 0 <= depth <= min(int(cap), len(block)), (strategy.name, found)
    return found


def residual(p: Floats, q: Floats) -> Floats:
    """norm(max(p − q, 0)), or p when that has no mass."""
    left = np.maximum(p - q, 0.0)
    return left / left.sum() if left.sum() > 0 else p


class Enumeration:
    """The joint distribution of what one scheduler makes of a world; `reuses_budget` keeps the first round's budget."""

    def __init__(self, world: World, strategy: PrefixScheduler, *, reuses_budget: bool = False) -> None:
        self.world = world
        self.strategy = strategy
        self.reuses_budget = reuses_budget
        self.verified_tokens = 0
        """Deepest admitted sum of depths in any round: whether there was anything to prove."""
        self._known: dict[Any, Any] = {}

    def joint(self) -> Floats:
        """P(outputs), float64 [V^L]·R; outputs of a request count in base V, first token first."""
        return self._after(0, ((),) * self.world.size, self.world.expected, None)

    def _after(self, index: int, histories: tuple[Tokens, ...], expected: Floats, old: Budget | None) -> Floats:
        """The joint distribution from a state on."""
        key = (index, histories, expected.tobytes(), _budget_key(old))
        if key not in self._known:
            self._known[key] = self._round(index, histories, expected, old)
        found: Floats = self._known[key]
        return found

    def _round(self, index: int, histories: tuple[Tokens, ...], expected: Floats, old: Budget | None) -> Floats:
        world = self.world
        emitted = tuple(len(history) for history in histories)
        active = tuple(r for r in range(world.size) if emitted[r] < world.length)
        if index == world.rounds or not active:
            return _outer([self._ending(r, history) for r, history in enumerate(histories)])
        requests = world.requests(index, active, emitted, expected)
        if old is not None and len(old.drafted) == len(active):
            budget = old
        else:
            budget = self.strategy.budget(requests, world.costs)
        drafted = [r in active and bool(budget.drafted[active.index(r)]) for r in range(world.size)]
        choices = [self._blocks(r, histories[r]) if drafted[r] else [((), 1.0)] for r in range(world.size)]
        last = index + 1 == world.rounds
        kept = budget if self.reuses_budget else None
        ends: list[list[Floats]] = [[] for _ in range(world.size)]
        weights: list[float] = []
        joint = np.zeros((world.vocab**world.length,) * world.size)
        for drawn in itertools.product(*choices):
            blocks = tuple(block for block, _ in drawn)
            chance = float(np.prod([q for _, q in drawn]))
            survival = np.array([world.survival(index, r, block) for r, block in enumerate(blocks)])
            depths = self._depths(index, emitted, active, requests, budget, survival, blocks)
            if last:
                weights.append(chance)
                for r in range(world.size):
                    ends[r].append(self._verified(r, histories[r], blocks[r], depths[r]))
                continue
            learned = np.where(np.array(drafted)[:, None], survival, expected)
            outcomes = [self._outcomes(r, histories[r], blocks[r], depths[r]) for r in range(world.size)]
            for results in itertools.product(*outcomes):
                after = tuple(history for history, _ in results)
                joint += chance * np.prod([p for _, p in results]) * self._after(index + 1, after, learned, kept)
        if last:
            first = np.array(weights)[:, None] * np.array(ends[0])
            return first.T @ np.array(ends[1]) if world.size == 2 else first.sum(axis=0)
        return joint

    def _depths(
        self,
        index: int,
        emitted: tuple[int, ...],
        active: tuple[int, ...],
        requests: Requests,
        budget: Budget,
        survival: Floats,
        blocks: tuple[Tokens, ...],
    ) -> list[int]:
        """ℓ of every request of the world, 0 for those that have left."""
        seen = blocks if isinstance(self.strategy, SeesTokens) else tuple(map(len, blocks))
        key = (index, emitted, requests.expected.tobytes(), _budget_key(budget), survival.tobytes(), seen)
        if key not in self._known:
            rows = list(active)
            drafts = tuple(blocks[r] for r in rows)
            found = admitted_depths(self.strategy, requests, self.world.costs, budget, survival[rows], drafts)
            self.verified_tokens = max(self.verified_tokens, sum(found))
            depths = dict(zip(rows, found, strict=True))
            self._known[key] = [depths.get(r, 0) for r in range(self.world.size)]
        known: list[int] = self._known[key]
        return known

    def _blocks(self, request: int, history: Tokens) -> list[tuple[Tokens, float]]:
        """All blocks that may be drafted, with their probabilities."""
        key = ("blocks", request, history)
        if key not in self._known:
            found = []
            for block in itertools.product(range(self.world.vocab), repeat=self.world.slots):
                rows = [
                    self.world.draft[request][len(history) + slot][history + block[:slot]] for slot in range(len(block))
                ]
                chance = float(np.prod([row[token] for row, token in zip(rows, block, strict=True)]))
                found += [(block, chance)] if chance > 0 else []
            self._known[key] = found
        blocks: list[tuple[Tokens, float]] = self._known[key]
        return blocks

    def _outcomes(self, request: int, history: Tokens, block: Tokens, depth: int) -> list[tuple[Tokens, float]]:
        """Histories after verification, with their probabilities."""
        if len(history) == self.world.length:
            return [(history, 1.0)]
        key = ("outcomes", request, history, block[:depth])
        if key not in self._known:
            self._known[key] = list(self._follow(request, history, block[:depth]))
        outcomes: list[tuple[Tokens, float]] = self._known[key]
        return outcomes

    def _follow(self, request: int, history: Tokens, admitted: Tokens) -> Iterator[tuple[Tokens, float]]:
        reached = 1.0
        for token in admitted:
            p, q = (side[request][len(history)][history] for side in (self.world.target, self.world.draft))
            accepted = min(1.0, p[token] / q[token])
            for other in np.flatnonzero(residual(p, q)).tolist() if accepted < 1 else ():
                yield (*history, other), reached * (1.0 - accepted) * residual(p, q)[other]
            history, reached = (*history, token), reached * accepted
            if reached == 0:
                return
        bonus = self.world.target[request][len(history)][history]
        yield from (((*history, token), reached * bonus[token]) for token in np.flatnonzero(bonus).tolist())

    def _verified(self, request: int, history: Tokens, block: Tokens, depth: int) -> Floats:
        """Distribution of the whole output float64 [V^L] when this is the last speculative round."""
        key = ("verified", request, history, block[:depth])
        if key not in self._known:
            outcomes = self._outcomes(request, history, block, depth)
            self._known[key] = np.sum([p * self._ending(request, after) for after, p in outcomes], axis=0)
        found: Floats = self._known[key]
        return found

    def _ending(self, request: int, history: Tokens) -> Floats:
        """Distribution of the whole output float64 [V^L] when the target goes on by itself."""
        key = ("ending", request, history)
        if key not in self._known:
            self._known[key] = completed(self.world, request, history)
        found: Floats = self._known[key]
        return found


def completed(world: World, request: int, history: Tokens) -> Floats:
    """P(output | history) by autoregressive sampling of the target, float64 [V^L]."""
    masses = {history: 1.0}
    for count in range(len(history), world.length):
        rows = world.target[request][count]
        masses = {(*h, token): m * float(rows[h][token]) for h, m in masses.items() for token in range(world.vocab)}
    found = np.zeros((world.vocab,) * world.length)
    for output, mass in masses.items():
        found[output] = mass
    return found.ravel()


def target_joint(world: World) -> Floats:
    """What every lossless strategy must produce: independent autoregressive sampling of every request."""
    return _outer([completed(world, request, ()) for request in range(world.size)])


def error_of(world: World, strategy: PrefixScheduler, *, reuses_budget: bool = False) -> float:
    """Largest difference of a joint probability from the target's."""
    joint = Enumeration(world, strategy, reuses_budget=reuses_budget).joint()
    return float(np.abs(joint - target_joint(world)).max())


def _outer(vectors: list[Floats]) -> Floats:
    return np.asarray(reduce(np.multiply.outer, vectors))


def _budget_key(budget: Budget | None) -> Any:
    return budget and (budget.drafted.tobytes(), budget.tokens, budget.draft_s)
