"""One request, one decision. Pure: clock and seed come in as numbers, equal arguments give equal answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np

from outrider.policy import AUTO, Policy, effective_route
from outrider.routing.choice import Flags, choose, feasible
from outrider.routing.corrections import Corrections
from outrider.routing.explanation import Ranking, packed
from outrider.routing.forecast import Forecast, forecast
from outrider.routing.prediction import Axes
from outrider.routing.query import RouteQuery
from outrider.routing.refusals import all_closed, no_candidate
from outrider.routing.roads import Road, quality_of, survey
from outrider.types import AnswerClass, BatchClass, Decision, LoadSnapshot, PredictionBasis

__all__ = ["STALE_WIDENING", "decide"]

STALE_WIDENING = 1.25
"""Widening by age from which a decision says that it was made on a stale load report."""

_NOTHING_LEARNT = Corrections()


def decide(
    query: RouteQuery,
    snapshots: Mapping[str, Sequence[LoadSnapshot]],
    policy: Policy,
    *,
    now_s: float,
    decision_id: str,
    predictor: Corrections | None = None,
) -> Decision:
    """Choose model, replica, depth cap and batch class for a request.

    snapshots: newest loads by model, one per replica believed alive, however old; none means not ready. now_s: on the
    clock of `time_s` in them. Budgets of the request are hard limits, and so is a route's quality floor unless the
    tier degrades quality; the tier's targets rank (the request's own replace them), in the order of its `degrade`.
    Raises ModelNotFound, ModelNotAllowed, NotReady, ContextLengthExceeded, BudgetExhausted, NoFeasibleRoute.
    """
    tenant, learnt = query.tenant, predictor or _NOTHING_LEARNT
    rules = effective_route(tenant, max(query.prompt_tokens.values(), default=0), query.tags, query.workflow)
    roads, closures = survey(query, snapshots, policy, rules, learnt, now_s)
    if not roads:
        raise all_closed(closures)
    grid = _grid(policy.routing.depth_caps, tenant.tier.min_depth, rules.max_depth, tenant.tier.batch_classes)
    found = forecast(roads, grid.axes, query.choices, policy.routing.quantile)
    exists = grid.existing(roads)
    keeps, open_ = _open_candidates(query, found, exists)
    choice = choose(found, query, policy, rules, open_)
    return _decision(Ranking(query, rules, closures, found, exists, keeps, choice), policy, learnt, decision_id)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Depth caps and classes that a tenant may have. drafting: which of the caps are open where a drafter is."""

    axes: Axes
    drafting: Flags

    def existing(self, roads: Sequence[Road]) -> Flags:
        """[R, C, D]: without a drafter there is one depth, 0."""
        plain = self.axes.depths == 0
        rows = [self.drafting if road.snapshot.drafter_ready else plain for road in roads]
        return np.repeat(np.array(rows)[:, None, :], self.axes.wait_s.size, axis=1)


@lru_cache(maxsize=256)
def _grid(caps: tuple[int, ...], least: int, most: int, classes: tuple[BatchClass, ...]) -> _Grid:
    """`least` yields to `most`."""
    wanted = sorted({max(min(cap, most), min(least, most)) for cap in caps})
    depths = sorted({0, *wanted})
    return _Grid(Axes.of(depths, classes), np.array([depth in wanted for depth in depths]))


def _open_candidates(query: RouteQuery, found: Forecast, exists: Flags) -> tuple[dict[str, Flags], Flags]:
    """Which candidates keep each hard limit, and which keep all.

    At the quantile, with the margin for stale reports; where that leaves nothing, without it, and then by the median:
    neither age nor doubt alone refuses anybody.
    """
    keeps: dict[str, Flags] = {}
    for times in found.ever_milder():
        keeps = feasible(times, query)
        open_ = reduce(np.logical_and, keeps.values(), exists)
        if open_.any():
            return keeps, open_
    raise no_candidate(query, found, exists, keeps)


def _decision(ranking: Ranking, policy: Policy, learnt: Corrections, decision_id: str) -> Decision:
    query, found, choice, road = ranking.query, ranking.forecast, ranking.choice, ranking.road
    winner, tier = choice.winner, query.tenant.tier
    _, slot, depth = found.place(winner)
    return Decision(
        decision_id=decision_id,
        model=road.model.name,
        replica=road.snapshot.replica,
        depth_cap=int(found.axes.depths[depth]),
        batch_class=tier.batch_classes[slot],
        policy_version=policy.version,
        objective=ranking.rules.objective,
        predicted_ttft_s=float(found.typical.ttft_s.flat[winner]),
        predicted_tpot_s=float(found.typical.tpot_s.flat[winner]),
        predicted_cost_usd=road.cost_usd,
        tpot_target_s=tier.tpot_s if query.budgets.tpot_s is None else query.budgets.tpot_s,
        max_tokens=road.max_tokens,
        limited_by_cost=road.limited_by_cost,
        lossless="coupled" if query.repeatable else policy.routing.verification,
        reasons=tuple(ranking.reasons()),
        candidates=packed(ranking),
        predicted_e2e_s=float(found.typical.e2e_s.flat[winner]),
        quantile=policy.routing.quantile,
        quantile_ttft_s=float(found.late.ttft_s.flat[winner]),
        quantile_tpot_s=float(found.late.tpot_s.flat[winner]),
        quantile_e2e_s=float(found.late.e2e_s.flat[winner]),
        reserve_usd=road.reserve_usd,
        expected_output_tokens=road.output_tokens,
        quality=road.quality,
        domain=query.domain,
        routes=ranking.rules.names,
        propensity=choice.propensity,
        explored=choice.explored,
        answer_class=_answer_class(query, policy, road),
        stale=road.widening >= STALE_WIDENING,
        predictor_version=learnt.version,
        basis=_basis(ranking),
    )


def _answer_class(query: RouteQuery, policy: Policy, road: Road) -> AnswerClass:
    """Against the model that was named; for `auto`, against the best of the tenant's for the request's domain."""
    if query.model != AUTO:
        return "distribution-lossless" if road.model.name == query.model else "model-substituted"
    best = max(quality_of(policy.models[name], query) for name in query.tenant.models)
    return "distribution-lossless" if road.quality >= best else "model-substituted"


def _basis(ranking: Ranking) -> PredictionBasis:
    query, road, raw = ranking.query, ranking.road, ranking.forecast.raw
    load, (at, slot, depth) = road.snapshot, ranking.forecast.place(ranking.choice.winner)
    return PredictionBasis(
        model=road.model.name,
        replica=load.replica,
        epoch=load.epoch,
        tenant=query.tenant.name,
        domain=query.domain,
        prompt_tokens=road.prompt_tokens,
        cached_tokens=road.cached_tokens,
        running=load.running_requests,
        queued=load.queued_requests,
        queued_tokens=load.queued_tokens,
        places=load.max_running_requests,
        ttft_s=float(raw.ttft_s[at, slot, 0]),
        tpot_s=float(raw.tpot_s[at, slot, depth]),
        accepted=load.acceptance_tokens,
        warm_s=load.warm_s,
        age_s=road.age_s,
        choices=query.choices,
        pace_s=load.pace_s,
        pace_requests=load.pace_requests,
    )
