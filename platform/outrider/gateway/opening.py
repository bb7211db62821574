"""One request from its parsed body to its road: kept answer, else tokens, decision, money, room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from outrider.accounting import Accountant
from outrider.accounting import Ask as MoneyAsk
from outrider.gateway.admission import Admission, engine_requests, route
from outrider.gateway.answers import Answers, Kept, answer_key, may_answer
from outrider.gateway.asks import Ask
from outrider.gateway.call import Call
from outrider.gateway.encoding import INLINE_CHARACTERS, Encoded
from outrider.gateway.entrance import Entrance
from outrider.gateway.generation import Generation
from outrider.gateway.leaving import disconnected
from outrider.gateway.line import Waiter
from outrider.gateway.loads import Loads
from outrider.gateway.money import Meter
from outrider.gateway.repetition import Repetition, decided_before, hit_usd
from outrider.gateway.settings import GatewaySettings
from outrider.policy import AUTO, Policy, Tenant
from outrider.policy.model import DEFAULT_DOMAIN
from outrider.quality import Assessment
from outrider.routing import Predictor
from outrider.text import TextModel
from outrider.types import Decision, GenerationRequest

__all__ = ["Assess", "Caller", "Opening", "Parts"]

Assess = Callable[[str, Sequence[str], Collection[str]], Assessment]
"""What a prompt is about and who would get it right, from its text, its tags and the domains that were measured."""

Requests = tuple[GenerationRequest, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and the policy that says so: one policy rules a request from its key to its price."""

    tenant: Tenant
    policy: Policy


@dataclass(frozen=True, slots=True)
class Parts:
    """What every opening of a gateway uses."""

    settings: GatewaySettings
    texts: Mapping[str, TextModel]
    loads: Loads
    entrance: Entrance
    accountant: Accountant
    answers: Answers
    assess: Assess
    predictor: Predictor

    def fingerprint(self, model: str) -> str:
        """See GatewaySettings."""
        return self.settings.system_fingerprint(model, self.texts[model].fingerprint)


class Opening:
    """Of one request. Whatever it raises, nothing is held for the request any more. time_s: wall clock at arrival."""

    def __init__(self, parts: Parts, call: Call, caller: Caller, ask: Ask, time_s: float) -> None:
        self._parts = parts
        self._call = call
        self._tenant, self._policy = caller.tenant, caller.policy
        self._ask = ask
        self._time_s = time_s
        self._assessment = Assessment()
        self.cache_key = answer_key(ask, self._tenant, self._policy)

    def kept(self) -> Kept | None:
        """The answer to an equal request, if it still holds, and this tenant may have it at this price."""
        key, parts, policy = self.cache_key, self._parts, self._policy
        kept = parts.answers.get(key, time.monotonic(), policy.cache) if key is not None else None
        if key is None or kept is None or not may_answer(kept, self._ask, self._tenant, policy):
            return None
        model = kept.decision.model
        if model not in parts.texts or parts.fingerprint(model) != kept.fingerprint:
            parts.answers.drop(key)
            return None
        limits = (self._ask.budgets.max_cost_usd, self._tenant.max_cost_usd_per_request)
        return kept if all(limit is None or hit_usd(kept, policy) <= limit for limit in limits) else None

    async def repeat(self, kept: Kept) -> Repetition:
        """The kept answer, its price reserved. Raises as `Accountant.reserve` does."""
        cost_usd = hit_usd(kept, self._policy)
        decision = decided_before(kept, self._call.decision_id, self._policy, cost_usd)
        tokens = kept.prompt_tokens + kept.completion_tokens
        reservation = await self._parts.accountant.reserve(
            MoneyAsk(decision.decision_id, self._tenant, cost_usd, cost_usd, tokens)
        )
        return Repetition(self._admission(decision, ()), kept, cost_usd, reservation)

    async def generate(self, prompts: Mapping[str, Encoded], receive: Receive) -> Generation:
        """Decide, reserve, wait for room and decide again if need be; then the work counts as sent.

        Raises what the router and the accountant refuse with, Overloaded, and ClientDisconnect for a client that
        left the line.
        """
        parts = self._parts
        await self._assess()
        decision = self._decide(prompts, behind_others=True)
        requests = self._send(decision, prompts) if parts.entrance.open_for(decision.model) else ()
        reservation = await parts.accountant.reserve(self._money(decision, prompts))
        began_s = time.monotonic()
        try:
            if not requests:
                decision, requests = await self._wait(decision.model, prompts, receive)
            admission = self._admission(decision, requests, waited_s=time.monotonic() - began_s)
            meter = Meter(admission.price, admission.prompt_tokens, reservation, parts.accountant)
            return Generation(admission, parts.loads.upstreams[decision.model], meter)
        except BaseException:
            parts.accountant.release(reservation)
            raise

    async def _assess(self) -> None:
        """Only `auto` asks who would do; a tag's domain the router sees without."""
        if self._ask.model != AUTO:
            return
        text = self._ask.prompt_text
        known = {domain for model in self._policy.models.values() for domain in model.quality} - {DEFAULT_DOMAIN}
        assess = partial(self._parts.assess, text, self._ask.tags, known)
        self._assessment = assess() if len(text) <= INLINE_CHARACTERS else await asyncio.to_thread(assess)

    async def _wait(self, model: str, prompts: Mapping[str, Encoded], receive: Receive) -> tuple[Decision, Requests]:
        """Wait for room at a model, then decide on what is known by then: another model may have to be waited for."""
        entrance, waiter_id = self._parts.entrance, self._call.decision_id
        leaving = asyncio.ensure_future(disconnected(receive))
        leaving.add_done_callback(
            lambda done: None if done.cancelled() else entrance.give_up(waiter_id, ClientDisconnect())
        )
        try:
            while True:
                waiter = Waiter(
                    waiter_id,
                    self._tenant.name,
                    model,
                    self._tenant.tier.priority,
                    self._call.received_s,
                    self._ask.choices,
                    sum(map(len, prompts[model])),
                )
                await entrance.wait(waiter, self._policy.admission)
                try:
                    decision = self._decide(prompts)
                    if decision.model == model or entrance.open_for(decision.model):
                        return decision, self._send(decision, prompts)
                    model = decision.model
                finally:
                    entrance.sent_on(waiter)
        finally:
            leaving.cancel()

    def _decide(self, prompts: Mapping[str, Encoded], *, behind_others: bool = False) -> Decision:
        """behind_others: predict with those who wait here already before it."""
        parts, ahead = self._parts, None
        if behind_others and parts.entrance.anybody:
            ahead = {name: parts.entrance.ahead(name, self._tenant.tier.priority) for name in prompts}
        loads = parts.loads.credited(ahead)
        return route(
            self._ask,
            self._tenant,
            prompts,
            loads,
            self._policy,
            now_s=time.time(),
            decision_id=self._call.decision_id,
            default_max_tokens=parts.settings.default_max_tokens,
            cached_tokens=parts.loads.prefixes.expected(self._tenant.name, prompts, loads),
            assessment=self._assessment,
            learnt=parts.predictor.state(),
        )

    def _send(self, decision: Decision, prompts: Mapping[str, Encoded]) -> Requests:
        """The engine's requests, credited to their model: whoever decides next sees them there."""
        text = self._parts.texts[decision.model]
        requests = engine_requests(self._ask, decision, prompts[decision.model], text, self._tenant)
        self._parts.loads.sent(decision, requests)
        return requests

    def _money(self, decision: Decision, prompts: Mapping[str, Encoded]) -> MoneyAsk:
        """floor_usd: the prompts, and one token of every choice."""
        prompt_tokens, choices = sum(map(len, prompts[decision.model])), self._ask.choices
        floor_usd = self._policy.models[decision.model].cost_usd(prompt_tokens, choices)
        return MoneyAsk(
            decision.decision_id,
            self._tenant,
            max(floor_usd, decision.reserve_usd),
            floor_usd,
            prompt_tokens + choices * min(decision.max_tokens, decision.expected_output_tokens),
        )

    def _admission(self, decision: Decision, requests: Requests, *, waited_s: float = 0.0) -> Admission:
        return Admission(
            ask=self._ask,
            tenant=self._tenant,
            policy=self._policy,
            decision=decision,
            requests=requests,
            text=self._parts.texts[decision.model],
            request_id=self._call.request_id,
            received_s=self._call.received_s,
            time_s=self._time_s,
            cache_key=self.cache_key,
            waited_s=waited_s,
        )
