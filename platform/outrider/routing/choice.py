"""Which candidate: hard limits filter, promises and the objective rank, the seed decides among equals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

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

    promises: those that some candidate misses, the most important first. misses [M, R, C, D]: by how much, relative to
    the promise. kept_all: how many candidates keep every limit and promise.
    """

    winner: int
    open_: Flags
    promises: tuple[str, ...]
    misses: Floats
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
    promises, misses = _misses(forecast, query, rules)
    score = _score(forecast, rules.objective, policy.routing.balance)
    keeping = open_ & (misses <= 0.0).all(axis=0) if promises else open_
    kept_all = int(np.count_nonzero(keeping))
    late = forecast.late
    ranks = [] if kept_all else [*misses]
    ranks += [score, late.e2e_s, forecast.list_usd, -forecast.quality, late.ttft_s]
    best = _best(keeping if kept_all else open_, ranks)
    share = policy.routing.exploration if kept_all else 0.0
    chance, pick, exploit_pick = _draws(query.exploration_seed)
    explores = chance < share
    exploit = [_deepest(at, open_, misses, forecast.block[4:6]) for at in _equals(forecast, best)]
    if explores:
        winner = int(np.flatnonzero(keeping)[int(pick * kept_all)])
    else:
        winner = exploit[int(exploit_pick * len(exploit))]
    propensity = share / kept_all if kept_all and keeping.flat[winner] else 0.0
    if winner in exploit:
        propensity += (1.0 - share) / len(exploit)
    explored = explores and winner not in exploit
    return Choice(winner, open_, promises, misses, score, propensity, explored, kept_all)


def _draws(seed: int) -> tuple[float, float, float]:
    """Three numbers in [0, 1), uniform over seeds. Seeding a generator costs several times as much."""
    digest = blake2b(b"%d" % seed, digest_size=18).digest()
    whole = (int.from_bytes(digest[at : at + 6], "little") for at in (0, 6, 12))
    first, second, third = (each / (1 << 48) for each in whole)
    return first, second, third


def _misses(forecast: Forecast, query: RouteQuery, rules: EffectiveRoute) -> tuple[tuple[str, ...], Floats]:
    """Promises that are out of reach for some candidate, those that the tier never gives up first; see Choice."""
    tier, budgets = query.tenant.tier, query.budgets
    targets = {
        "ttft": tier.ttft_s if budgets.ttft_s is None else budgets.ttft_s,
        "tpot": tier.tpot_s if budgets.tpot_s is None else budgets.tpot_s,
        "deadline": tier.deadline_s if budgets.deadline_s is None else budgets.deadline_s,
    }
    late = forecast.block[3:6]
    scales = np.array([np.inf if each is None else each for each in targets.values()])
    missed = {}
    relative = late / scales[:, None, None, None]
    for name, each, most in zip(targets, relative, relative.reshape(len(targets), -1).max(axis=1), strict=True):
        if most > 1.0:
            each -= 1.0
            missed[name] = np.maximum(each, 0.0, out=each)
    if rules.quality is not None and any(road.quality < rules.quality for road in forecast.roads):
        missed["quality"] = np.maximum(rules.quality - forecast.quality, 0.0)
    # Given up first is what matters least: it comes last. What is not listed is never given up: it comes first.
    given_up: dict[str, int] = {name: place for place, name in enumerate(tier.degrade)}
    order = tuple(sorted(missed, key=lambda name: -given_up.get(name, len(given_up))))
    return order, np.array([missed[name] for name in order]).reshape(-1, *late.shape[1:])


def _score(forecast: Forecast, objective: str, balance: Balance) -> Floats:
    """What the objective makes of each candidate; the least is best."""
    if objective == "cheapest":
        return forecast.list_usd
    if objective == "fastest":
        return forecast.late.e2e_s
    if objective == "best_quality":
        return -forecast.quality
    logarithm: Floats = (
        balance.latency * np.log(forecast.late.e2e_s + _LEAST_SECONDS)
        + balance.cost * np.log(forecast.list_usd + _LEAST_USD)
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
    roads, (_, classes, depths) = forecast.roads, forecast.list_usd.shape
    road, rest = divmod(best, classes * depths)
    late = forecast.block[3:6].reshape(3, len(roads), -1)[:, :, rest]
    alike = np.flatnonzero((late == late[:, road : road + 1]).all(axis=0)).tolist()
    mine = roads[road]
    same = [at for at in alike if roads[at].model is mine.model and roads[at].list_usd == mine.list_usd]
    return [at * classes * depths + rest for at in sorted(same, key=lambda at: roads[at].snapshot.replica)]


def _deepest(at: int, open_: Flags, misses: Floats, times: Floats) -> int:
    """The largest depth cap on the same replica and class that costs no promise and no more time than noise.

    A cap is a bound: the engine verifies less whenever its live price says so, and cannot verify more. So a cap that
    is too large costs next to nothing, and one that is too small costs speed for the whole answer.
    """
    depths = int(open_.shape[2])
    row, depth = divmod(at, depths)
    missed, took = (each.reshape(len(each), open_.size // depths, depths)[:, row] for each in (misses, times))
    allowed = (missed <= missed[:, depth : depth + 1]).all(axis=0)
    allowed &= (took <= took[:, depth : depth + 1] * (1.0 + _NOISE)).all(axis=0)
    allowed &= open_.reshape(-1, depths)[row]
    return row * depths + int(np.flatnonzero(allowed)[-1])
