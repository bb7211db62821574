"""The joint output distribution when random numbers are a function of a key, so that an equal key repeats them.

Slower than `support.enumeration` and independent of it: a program draws from uniform numbers on [0, 1), each known by
an interval that every draw narrows, and all branches are followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

import numpy as np

from outrider.scheduling import PrefixScheduler
from outrider.scheduling.scheduler import Floats
from support.enumeration import admitted_depths, completed, residual
from support.worlds import Tokens, World

__all__ = ["keyed_joint"]

_NOTHING = 1e-13
"""Narrower intervals are rounding."""


@dataclass
class _Noise:
    """One branch: choices that are prescribed, then first ones; `untaken` collects the others."""

    script: tuple[int, ...]
    chance: float = 1.0
    taken: tuple[int, ...] = ()
    untaken: list[tuple[int, ...]] = field(default_factory=list)
    _known: dict[Any, tuple[float, float]] = field(default_factory=dict)

    def draw(self, key: Any, probabilities: Floats) -> int:
        """The outcome that the key's uniform number selects by inverse transform."""
        low, high = self._known.get(key, (0.0, 1.0))
        ends = np.cumsum(probabilities)
        lows, highs = np.maximum(low, ends - probabilities), np.minimum(high, ends)
        possible = np.flatnonzero(highs - lows > _NOTHING).tolist()
        if len(self.taken) < len(self.script):
            choice = self.script[len(self.taken)]
        else:
            choice = possible[0]
            self.untaken += [(*self.taken, other) for other in possible[1:]]
        self.chance *= float(highs[choice] - lows[choice]) / (high - low)
        self._known[key] = float(lows[choice]), float(highs[choice])
        self.taken = (*self.taken, choice)
        return int(choice)


def _branches(program: Callable[[_Noise], Floats]) -> Iterator[Floats]:
    """Every branch's result times its probability."""
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        noise = _Noise(scripts.pop())
        result = program(noise)
        yield noise.chance * result
        scripts += noise.untaken


def keyed_joint(world: World, strategy: PrefixScheduler, keyed_by: Literal["round", "position"]) -> Floats:
    """As `Enumeration.joint`, with noise of three streams keyed by (request, round, slot) or (request, position)."""

    def program(noise: _Noise) -> Floats:
        histories: list[Tokens] = [()] * world.size
        expected = world.expected
        for index in range(world.rounds):
            active = [r for r in range(world.size) if len(histories[r]) < world.length]
            if not active:
                break
            requests = world.requests(index, active, list(map(len, histories)), expected)
            budget = strategy.budget(requests, world.costs)

            def key(stream: str, r: int, slot: int, index: int = index) -> Any:
                return (stream, r, index, slot) if keyed_by == "round" else (stream, r, len(histories[r]) + slot)

            blocks = {r: _drafted(world, r, histories[r], noise, key) if budget.drafted[row] else ()
                      for row, r in enumerate(active)}  # fmt: skip
            survival = np.array([world.survival(index, r, blocks[r]) for r in active])
            depths = admitted_depths(strategy, requests, world.costs, budget, survival, tuple(blocks.values()))
            expected = expected.copy()
            expected[active] = np.where(budget.drafted[:, None], survival, expected[active])
            emitted = [_emitted(world, r, histories[r], blocks[r][:depth], noise, key)
                       for r, depth in zip(active, depths, strict=True)]  # fmt: skip
            for r, tokens in zip(active, emitted, strict=True):
                histories[r] += tokens
        return np.asarray(reduce(np.multiply.outer, (completed(world, r, h) for r, h in enumerate(histories))))

    return np.asarray(sum(_branches(program)))


def _drafted(world: World, request: int, history: Tokens, noise: _Noise, key: Callable[..., Any]) -> Tokens:
    block: Tokens = ()
    for slot in range(world.slots):
        row = world.draft[request][len(history) + slot][history + block]
        block += (noise.draw(key("draft", request, slot), row),)
    return block


def _emitted(
    world: World, request: int, history: Tokens, admitted: Tokens, noise: _Noise, key: Callable[..., Any]
) -> Tokens:
    for slot, token in enumerate(admitted):
        before = history + admitted[:slot]
        p, q = (side[request][len(before)][before] for side in (world.target, world.draft))
        accepted = min(1.0, p[token] / q[token])
        if noise.draw(key("accept", request, slot), np.array([accepted, 1.0 - accepted])):
            return (*admitted[:slot], noise.draw(key("choose", request, slot), residual(p, q)))
    reached = history + admitted
    bonus = world.target[request][len(reached)][reached]
    return (*admitted, noise.draw(key("choose", request, len(admitted)), bonus))
