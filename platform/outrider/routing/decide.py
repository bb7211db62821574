"""One request, one decision. Pure: the clock comes in as a number, equal arguments give equal answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from outrider.policy import Policy
from outrider.routing.explanation import Ranking
from outrider.routing.query import RouteQuery
from outrider.routing.refusals import all_closed, no_candidate
from outrider.routing.roads import Closure, Road, granted_models, survey
from outrider.routing.table import Flags, Table, feasible, ranked, target_miss
from outrider.types import Decision, LoadSnapshot

__all__ = ["decide"]


def decide(
    query: RouteQuery,
    snapshots: Mapping[str, LoadSnapshot | None],
    policy: Policy,
    *,
    now_s: float,
    decision_id: str,
) -> Decision:
    """Choose model, depth cap and batch class for a request.

    snapshots: newest load by model; None or absent means not ready. now_s: on the clock of `time_s` in them.
    Budgets of the request are hard limits; the tier's targets only rank (the request's own replace them).
    Raises ModelNotFound, ModelNotAllowed, NotReady, ContextLengthExceeded, BudgetExhausted, NoFeasibleRoute.
    """
    looked_at = [survey(name, query, snapshots.get(name), policy, now_s) for name in granted_models(query, policy)]
    roads = [each for each in looked_at if isinstance(each, Road)]
    closures = [each for each in looked_at if isinstance(each, Closure)]
    if not roads:
        raise all_closed(closures)
    ranking = _ranking(query, roads, closures, policy)
    road, table, winner = ranking.road, ranking.table, ranking.winner
    return Decision(
        decision_id=decision_id,
        model=road.model.name,
        replica=road.snapshot.replica,
        depth_cap=int(table.depth[winner]),
        batch_class=road.batch_classes[table.slot[winner]],
        policy_version=policy.version,
        objective=query.tenant.objective,
        predicted_ttft_s=float(table.margin.ttft_s[winner]),
        predicted_tpot_s=float(table.margin.tpot_s[winner]),
        predicted_cost_usd=road.cost_usd,
        tpot_target_s=_either(query.budgets.tpot_s, query.tenant.tier.tpot_s),
        max_tokens=road.max_tokens,
        limited_by_cost=road.limited_by_cost,
        lossless="coupled" if query.repeatable else policy.routing.verification,
        reasons=tuple(ranking.reasons()),
        candidates=ranking.records(),
    )


def _ranking(query: RouteQuery, roads: Sequence[Road], closures: Sequence[Closure], policy: Policy) -> Ranking:
    """All candidates in order. Raises NoFeasibleRoute."""
    table, budgets, tier = Table.of(roads), query.budgets, query.tenant.tier
    keeps, open_ = _open_candidates(query, table, roads)
    targets = _either(budgets.ttft_s, tier.ttft_s), _either(budgets.tpot_s, tier.tpot_s)
    miss = target_miss(table.margin, *targets)
    order, score = ranked(table, miss, query.tenant.objective, policy.routing.balance)
    order = np.concatenate([order[open_[order]], order[~open_[order]]])
    return Ranking(query, roads, closures, table, keeps, open_, miss, score, order)


def _either(own: float | None, default: float | None) -> float | None:
    return default if own is None else own


def _open_candidates(query: RouteQuery, table: Table, roads: Sequence[Road]) -> tuple[dict[str, Flags], Flags]:
    """Which candidates keep each hard limit, and which keep all.

    Judged with the margin for stale snapshots; where that leaves nothing, without: age alone refuses nobody.
    """
    for prediction in (table.margin, table.estimate):
        keeps = feasible(prediction, query.budgets)
        open_ = reduce(np.logical_and, keeps.values(), np.ones(table.depth.size, dtype=np.bool_))
        if open_.any():
            return keeps, open_
    raise no_candidate(query, table, roads, keeps)
