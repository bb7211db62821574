"""What is remembered of a request: the decision for whoever asks soon, an event, a row of the ledger."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from outrider.accounting import Settlement
from outrider.errors import RouteNotFound
from outrider.gateway.admission import Admission
from outrider.gateway.asks import Ask
from outrider.policy import Tenant
from outrider.routing import Observed, as_record
from outrider.telemetry import RequestEvent, RequestOutcome
from outrider.types import Decision, FinishReason

__all__ = ["RecentDecisions", "event_of", "observed_of", "settlement_of"]


@dataclass(slots=True)
class _Remembered:
    """A recent decision; `outcome` is None while its request runs."""

    tenant: str
    request_id: str
    decision: Decision
    outcome: RequestOutcome | None = None


class RecentDecisions:
    """The last `most` of this gateway."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._recent: OrderedDict[str, _Remembered] = OrderedDict()

    def begin(self, admission: Admission) -> None:
        """A request was decided on."""
        decision = admission.decision
        entry = _Remembered(admission.tenant.name, admission.request_id, decision)
        self._recent[decision.decision_id] = entry
        while len(self._recent) > self._most:
            self._recent.popitem(last=False)

    def end(self, decision_id: str, outcome: RequestOutcome) -> None:
        """Its request has ended."""
        if (found := self._recent.get(decision_id)) is not None:
            found.outcome = outcome

    def of(self, tenant: Tenant, decision_id: str) -> dict[str, object]:
        """A decision of the tenant's own. Raises RouteNotFound, the same for unknown and for others' ids."""
        found = self._recent.get(decision_id)
        if found is None or found.tenant != tenant.name:
            raise RouteNotFound("no recent decision of yours has this id", param="id")
        return {
            "object": "outrider.decision",
            "id": decision_id,
            "request_id": found.request_id,
            "decision": as_record(found.decision),
            "outcome": found.outcome,
        }


def settlement_of(admission: Admission, outcome: RequestOutcome) -> Settlement:
    """The ledger's row. A target is missed where the request's own, else its tier's, was not kept."""
    ask, tenant, decision = admission.ask, admission.tenant, admission.decision
    return Settlement(
        decision_id=decision.decision_id,
        request_id=admission.request_id,
        time_s=admission.time_s,
        wall_s=outcome.e2e_s,
        tenant=tenant.name,
        team=tenant.team,
        model=decision.model,
        policy_version=decision.policy_version,
        status=outcome.status,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        cost_usd=outcome.cost_usd,
        cached_tokens=outcome.cached_tokens,
        finish_reason=outcome.finish_reason,
        limited_by=outcome.limited_by,
        error_code=outcome.error_code,
        cache_hit=outcome.cache_hit,
        workflow=ask.workflow,
        tags=ask.tags,
        ttft_s=outcome.ttft_s,
        tpot_s=outcome.tpot_s,
        ttft_missed=_missed(outcome.ttft_s, ask.budgets.ttft_s, tenant.tier.ttft_s),
        tpot_missed=_missed(outcome.tpot_s, ask.budgets.tpot_s, tenant.tier.tpot_s),
        deadline_missed=_missed(outcome.e2e_s, ask.budgets.deadline_s, tenant.tier.deadline_s),
    )


def event_of(
    time_s: float,
    request_id: str,
    decision_id: str,
    tenant: Tenant,
    ask: Ask,
    policy_version: str,
    outcome: RequestOutcome,
    decision: Decision | None = None,
) -> RequestEvent:
    """Of a request that reached the router; decision None where it was not let in."""
    return RequestEvent(
        time_s=time_s,
        request_id=request_id,
        decision_id=decision_id,
        tenant=tenant.name,
        endpoint=ask.endpoint,
        model=ask.model,
        policy_version=policy_version,
        stream=ask.stream,
        budgets=ask.budgets,
        outcome=outcome,
        decision=decision,
        max_tokens=ask.max_tokens,
        temperature=ask.sampling.temperature,
        top_p=ask.sampling.top_p,
        workflow=ask.workflow,
        tags=ask.tags,
        choices=ask.choices,
    )


def _missed(took_s: float | None, own_s: float | None, tier_s: float | None) -> bool:
    target_s = tier_s if own_s is None else own_s
    return took_s is not None and target_s is not None and took_s > target_s


def observed_of(outcome: RequestOutcome, choices: int) -> Observed:
    """What a prediction is paired with: the router's clock begins where the line ended."""
    ttft_s = None if outcome.ttft_s is None else outcome.ttft_s - outcome.wait_s
    each = round(outcome.completion_tokens / choices)
    cut = outcome.finish_reason in (None, FinishReason.LENGTH.value)
    return Observed(ttft_s, outcome.tpot_s, (each,) * choices, outcome.rounds, cut)
