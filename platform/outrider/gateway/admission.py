"""From a validated ask to a routed request: tokenise for every open model, decide, draw up the engine's requests."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from outrider.errors import ContextLengthExceeded
from outrider.gateway.asks import Ask, Prompt
from outrider.gateway.encoding import Encoded, constraint_for
from outrider.policy import ModelPolicy, Policy, Tenant
from outrider.quality import Assessment
from outrider.routing import Corrections, RouteQuery, decide
from outrider.text import TextModel
from outrider.types import Decision, GenerationRequest, LoadSnapshot, SamplingParams

__all__ = ["Admission", "engine_requests", "new_decision_id", "route"]


NOTHING_KNOWN = Assessment()


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that has a road: everything its life needs, fixed when the router spoke.

    requests: one per choice, in the order of their indices; none where a kept answer is given again. received_s is
    monotonic, time_s is wall clock; both are of arrival. policy: the one in force then rules to the end.
    cache_key: None where the answer must not be kept. waited_s: in this gateway's line.
    """

    ask: Ask
    tenant: Tenant
    policy: Policy
    decision: Decision
    requests: tuple[GenerationRequest, ...]
    text: TextModel
    request_id: str
    received_s: float
    time_s: float
    cache_key: bytes | None = None
    waited_s: float = 0.0

    @property
    def price(self) -> ModelPolicy:
        """Of the model that answers."""
        return self.policy.models[self.decision.model]

    @property
    def prompt_tokens(self) -> int:
        """Each prompt counts once, however many choices answer it."""
        return sum(len(request.prompt_token_ids) for request in self.requests[:: self.ask.n])

    def prompt_of(self, choice: int) -> Prompt:
        """The prompt a choice answers: n choices for the first, then n for the second."""
        return self.ask.prompts[choice // self.ask.n]


def new_decision_id() -> str:
    """Unique, and short enough to read out."""
    return f"dec-{uuid.uuid4().hex[:24]}"


def route(
    ask: Ask,
    tenant: Tenant,
    prompts: Mapping[str, Encoded],
    loads: Mapping[str, Sequence[LoadSnapshot]],
    policy: Policy,
    *,
    now_s: float,
    decision_id: str,
    default_max_tokens: int,
    cached_tokens: Mapping[str, int] = MappingProxyType({}),
    assessment: Assessment = NOTHING_KNOWN,
    learnt: Corrections | None = None,
) -> Decision:
    """The router's decision, with the platform's output limit where the tenant named none."""
    query = RouteQuery(
        tenant=tenant,
        model=ask.model,
        prompt_tokens={name: max(map(len, batch)) for name, batch in prompts.items()},
        max_tokens=ask.max_tokens,
        budgets=ask.budgets,
        workflow=ask.workflow,
        tags=ask.tags,
        stream=ask.stream,
        repeatable=ask.seeded or ask.sampling.temperature == 0,
        choices=ask.choices,
        batch_tokens={name: sum(map(len, batch)) for name, batch in prompts.items()},
        domain=assessment.domain,
        success=assessment.success,
        cached_tokens=cached_tokens,
        exploration_seed=zlib.crc32(decision_id.encode()),
    )
    try:
        decision = decide(query, loads, policy, now_s=now_s, decision_id=decision_id, predictor=learnt)
    except ContextLengthExceeded as error:
        error.param = ask.prompt_field
        raise
    if ask.max_tokens is None and decision.max_tokens > (limit := max(default_max_tokens, ask.sampling.min_tokens)):
        return replace(decision, max_tokens=limit, limited_by_cost=False)
    return decision


def engine_requests(
    ask: Ask, decision: Decision, prompts: Encoded, text: TextModel, tenant: Tenant
) -> tuple[GenerationRequest, ...]:
    """One request per choice. Their ids come from the decision's, because a client may repeat its own."""
    sampling = _sampling(ask, decision, text)
    first = GenerationRequest(
        request_id=decision.decision_id,
        prompt_token_ids=prompts[0],
        sampling=sampling,
        batch_class=decision.batch_class,
        depth_cap=decision.depth_cap,
        tpot_target_s=decision.tpot_target_s,
        cache_salt=tenant.name,
    )
    if ask.n == len(prompts) == 1:
        return (first,)
    return tuple(
        replace(
            first,
            request_id=f"{decision.decision_id}-{at * ask.n + choice}",
            prompt_token_ids=prompt,
            choice_index=choice,
        )
        for at, prompt in enumerate(prompts)
        for choice in range(ask.n)
    )


def _sampling(ask: Ask, decision: Decision, text: TextModel) -> SamplingParams:
    """With what only the decision or the model's template says."""
    return replace(
        ask.sampling,
        max_tokens=decision.max_tokens,
        min_tokens=min(ask.sampling.min_tokens, decision.max_tokens),
        constraint=constraint_for(ask, text),
        verification=decision.lossless,
    )
