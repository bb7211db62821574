"""Which candidate: hard limits filter, promises and the objective rank, the seed decides among equals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.policy import Balance, EffectiveRoute, Policy
from outrider.routing.forecast import Forecast, Times
from outrider.routing.prediction import Floats
from outrider.routing.query import RouteQuery

__all__ = ["BREAKS", "Choice", "Flags", "choose", "feasible"]

Flags = NDArray[np.bool_]

BREAKS = {"ttft": 2, "tpot": 4, "deadline": 8}
"""Hard limits that depend on load, by the stem of their name on the wire (`ttft_ms`), and their bit in the flags."""

_NOISE = 0.03
"""Predictions closer than this share are not told apart where a larger depth cap stands against a smaller one."""

# Below these amounts a difference is not worth a trade; they also keep logarithms finite.
_LEAST_SECONDS, _LEAST_USD, _LEAST_QUALITY = 1e-6, 1e-9, 1e-3
_EQUAL = 1e-12


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner (road, class, depth) as a flat index, and how it came to win; arrays are [R, C, D].

    misses: by promise, the most important first: by how much, relative to it, each candidate misses it. kept_all: how
    many candidates keep every limit and promise.
    """

    winner: int
    open_: Flags
    misses: dict[str, Floats]
    score: Floats
    propensity: float
    explored: bool
    kept_all: int


def feasible(times: Times, query: RouteQuery) -> dict[str, Flags]:
    """For each hard limit that the request sets: which candidates keep it."""
    budgets = query.budgets
    limits = (
        ("ttft", times.ttft_s, budgets.ttft_s),
        ("tpot", times.tpot_s, budgets.tpot_s),
        ("deadline", times.e2e_s, budgets.deadline_s),
    )
    return {name: column <= limit for name, column, limit in limits if limit is not None}


def choose(forecast: Forecast, query: RouteQuery, policy: Policy, rules: EffectiveRoute, open_: Flags) -> Choice:
    """The best of the open candidates, or with the policy's share of exploration any that keeps everything."""
    misses = _misses(forecast, query, rules)
    score = _score(forecast, rules.objective, policy.routing.balance)
    late = forecast.late
    best = _best(open_, [*misses.values(), score, late.e2e_s, forecast.cost_usd, -forecast.quality, late.ttft_s])
    keeping = open_
    for miss in misses.values():
        keeping = keeping & (miss <= 0.0)
    kept_all = int(keeping.sum())
    share = policy.routing.exploration if kept_all else 0.0
    equals = _equals(forecast, best)
    draw = random.Random(query.exploration_seed)
    explores, pick, exploit_pick = draw.random() < share, draw.random(), draw.random()
    exploit = [_deepest(at, open_, [*misses.values()], (late.tpot_s, late.e2e_s)) for at in equals]
    if explores:
        winner = int(np.flatnonzero(keeping)[int(pick * kept_all)])
    else:
        winner = exploit[int(exploit_pick * len(exploit))]
    propensity = share / kept_all if kept_all and keeping.flat[winner] else 0.0
    if winner in exploit:
        propensity += (1.0 - share) / len(exploit)
    return Choice(winner, open_, misses, score, propensity, explores and winner not in exploit, kept_all)


def _misses(forecast: Forecast, query: RouteQuery, rules: EffectiveRoute) -> dict[str, Floats]:
    """Promises that are out of reach for some candidate, those that the tier never gives up first."""
    tier, budgets, late = query.tenant.tier, query.budgets, forecast.late
    targets = (
        ("ttft", late.ttft_s, tier.ttft_s if budgets.ttft_s is None else budgets.ttft_s),
        ("tpot", late.tpot_s, tier.tpot_s if budgets.tpot_s is None else budgets.tpot_s),
        ("deadline", late.e2e_s, tier.deadline_s if budgets.deadline_s is None else budgets.deadline_s),
    )
    found = {name: np.maximum(column / target - 1.0, 0.0) for name, column, target in targets if target is not None}
    if rules.quality is not None:
        found["quality"] = np.maximum(rules.quality - forecast.quality, 0.0)
    # Given up first is what matters least: it comes last. What is not listed is never given up: it comes first.
    given_up: dict[str, int] = {name: place for place, name in enumerate(tier.degrade)}
    order = sorted(found, key=lambda name: -given_up.get(name, len(given_up)))
    return {name: found[name] for name in order if found[name].any()}


def _score(forecast: Forecast, objective: str, balance: Balance) -> Floats:
    """What the objective makes of each candidate; the least is best."""
    if objective == "cheapest":
        return forecast.cost_usd
    if objective == "fastest":
        return forecast.late.e2e_s
    if objective == "best_quality":
        return -forecast.quality
    logarithm: Floats = (
        balance.latency * np.log(forecast.late.e2e_s + _LEAST_SECONDS)
        + balance.cost * np.log(forecast.cost_usd + _LEAST_USD)
        - balance.quality * np.log(forecast.quality + _LEAST_QUALITY)
    )
    return logarithm


def _best(open_: Flags, keys: Sequence[Floats]) -> int:
    """The open candidate with the least keys, compared in order; the first of equals."""
    left = np.flatnonzero(open_)
    for key in keys:
        if left.size == 1:
            break
        values = key.ravel()[left]
        least = values.min()
        left = left[values <= least + _EQUAL * abs(least)]
    return int(left[0])


def _equals(forecast: Forecast, best: int) -> list[int]:
    """The same class and depth on every replica that nothing tells apart from the best one's, by the replica's name."""
    roads, (_, classes, depths) = forecast.roads, forecast.cost_usd.shape
    road, rest = divmod(best, classes * depths)
    late = forecast.block[3:6].reshape(3, len(roads), -1)[:, :, rest]
    alike = np.flatnonzero((late == late[:, road : road + 1]).all(axis=0)).tolist()
    mine = roads[road]
    same = [at for at in alike if roads[at].model is mine.model and roads[at].cost_usd == mine.cost_usd]
    return [at * classes * depths + rest for at in sorted(same, key=lambda at: roads[at].snapshot.replica)]


def _deepest(at: int, open_: Flags, misses: Sequence[Floats], times: Sequence[Floats]) -> int:
    """The largest depth cap on the same replica and class that costs no promise and no more time than noise.

    A cap is a bound: the engine verifies less whenever its live price says so, and cannot verify more. So a cap that
    is too large costs next to nothing, and one that is too small costs speed for the whole answer.
    """
    depths = int(open_.shape[2])
    row, depth = divmod(at, depths)

    def by_depth(column: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = column.reshape(-1, depths)[row]
        return found

    allowed = by_depth(open_).copy()
    for column in map(by_depth, misses):
        allowed &= column <= column[depth]
    for column in map(by_depth, times):
        allowed &= column <= column[depth] * (1.0 + _NOISE)
    return row * depths + int(np.flatnonzero(allowed)[-1])
