"""The gateway itself: who may call, where a request goes, and what is remembered of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from starlette.types import Receive

from outrider.accounting import Accountant, Unmetered
from outrider.errors import AccountingUnavailable, InvalidKey, InvalidRequest, NotAnOperator, NotReady, OutriderError
from outrider.gateway.admission import Admission, new_decision_id
from outrider.gateway.answers import Answers, Kept, whole
from outrider.gateway.asks import Ask
from outrider.gateway.call import Call
from outrider.gateway.choice import Piece
from outrider.gateway.encoding import tokenise
from outrider.gateway.entrance import Entrance
from outrider.gateway.loads import Loads
from outrider.gateway.opening import Assess, Caller, Opening, Parts
from outrider.gateway.records import RecentDecisions, event_of, observed_of, settlement_of
from outrider.gateway.reply import Reply
from outrider.gateway.settings import GatewaySettings
from outrider.gateway.upstream import Upstream
from outrider.policy import AUTO, Policy, Tenant
from outrider.quality import by_tags
from outrider.routing import Predictor
from outrider.telemetry import EventLog, Metrics, RequestEvent, RequestOutcome
from outrider.text import TextModel
from outrider.types import LoadSnapshot

__all__ = ["Caller", "Gateway"]

_log = logging.getLogger(__name__)


class Gateway:
    """Shared by every request of one process; lives on one event loop.

    policy is asked for anew by every request, so replacing what it returns is how a policy is applied. upstreams
    and texts are read live. accountant None: nobody is limited. assess: what the router learns of an `auto` request's
    prompt. `events` None keeps no event log.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        policy: Callable[[], Policy],
        upstreams: Mapping[str, Upstream],
        texts: Mapping[str, TextModel],
        *,
        accountant: Accountant | None = None,
        assess: Assess = by_tags,
        metrics: Metrics | None = None,
        events: EventLog | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.events = events
        self.running = 0
        self.draining = False
        self.texts = texts
        self._policy = policy
        self._loads = Loads(upstreams)
        self._entrance = Entrance(self._loads.room, self.metrics.admission.shed)
        self._accountant = accountant or Unmetered()
        self._answers = Answers()
        self._recent = RecentDecisions(settings.recent_decisions)
        self._predictor = Predictor()
        self._parts = Parts(
            settings, texts, self._loads, self._entrance, self._accountant, self._answers, assess, self._predictor
        )
        self.metrics.watch(self._loads.reported, time.time)
        self.metrics.admission.watch(self.waiting, lambda: (len(self._answers), self._answers.size_bytes))

    def drain(self) -> None:
        """Refuse new requests from now on; running ones finish (`running` counts them)."""
        self.draining = True

    def authenticate(self, call: Call, authorization: str | None) -> Caller:
        """The caller behind a bearer key. Raises InvalidKey."""
        policy = self._policy()
        tenant = policy.tenant_for_key(_bearer(authorization), time.time())
        call.tenant = tenant.name
        return Caller(tenant, policy)

    def authenticate_operator(self, authorization: str | None) -> str:
        """The operator behind a bearer key. Raises InvalidKey, NotAnOperator for a tenant's."""
        policy, key, now_s = self._policy(), _bearer(authorization), time.time()
        try:
            return policy.operator_for_key(key, now_s)
        except InvalidKey:
            with suppress(InvalidKey):
                policy.tenant_for_key(key, now_s)
                raise NotAnOperator("this key is a tenant's; an operator's of the policy is needed") from None
            raise

    async def open(self, call: Call, caller: Caller, ask: Ask, receive: Receive) -> Reply:
        """Let a request in; the model starts on it when the reply is iterated. Raises typed refusals.

        receive: the exchange's, its body read; it tells who leaves while waiting.
        """
        time_s = time.time()
        self._check_size(ask)
        if self.draining:
            raise NotReady("this gateway is shutting down; another one takes the request")
        self.begin()  # who is being let in counts as running: draining waits for them
        try:
            opening = Opening(self._parts, call, caller, ask, time_s)
            kept = opening.kept()
            prompts = {} if kept else await tokenise(ask, caller.tenant, self.texts)
            call.decision_id = new_decision_id()
            reply = await (opening.repeat(kept) if kept else opening.generate(prompts, receive))
        except OutriderError as error:
            self._refused(call, caller, ask, time_s, error)
            raise
        finally:
            self.running -= 1
            if call.decision_id:
                call.limits = self._accountant.limits(caller.tenant)
        call.model = reply.admission.decision.model
        self._recent.begin(reply.admission)
        return reply

    def _refused(self, call: Call, caller: Caller, ask: Ask, time_s: float, error: OutriderError) -> None:
        """Only what had reached the router is an event."""
        self.metrics.admission.refused(error.code)
        if not call.decision_id:
            return
        outcome = RequestOutcome(status=error.status, error_code=error.code, e2e_s=time.monotonic() - call.received_s)
        version = caller.policy.version
        self._append(event_of(time_s, call.request_id, call.decision_id, caller.tenant, ask, version, outcome))

    def _check_size(self, ask: Ask) -> None:
        """Raises InvalidRequest for more choices than one request may ask for."""
        limit, choices = self.settings.max_choices, ask.choices
        if choices > limit:
            field = "n" if len(ask.prompts) == 1 else "prompt"
            asked = f"{ask.n}" if field == "n" else f"{len(ask.prompts)} prompts with n {ask.n}"
            raise InvalidRequest(f"'{field}': {asked} is more than the {limit} choices of one request", param=field)

    def begin(self) -> None:
        """Count a generation as running; `settle` ends that."""
        self.running += 1

    async def settle(
        self, reply: Reply, status: int, error: OutriderError | None = None, told: Sequence[Sequence[Piece]] = ()
    ) -> None:
        """Account for a reply that ended, however it did; the first call counts. Returns when that is durable.

        told: all pieces of each choice, where the answer is whole. Raises AccountingUnavailable for a whole answer,
        whose end must not be told before its account is durable; that of any other is queued.
        """
        if reply.settled:
            return
        reply.settled = True
        admission, outcome = reply.admission, reply.outcome(status, error)
        try:
            await self._accountant.settle(reply.reservation, settlement_of(admission, outcome))
        except AccountingUnavailable as unavailable:
            if status == 200:
                raise
            _log.warning("request %s: %s", admission.request_id, unavailable.message)
        finally:
            self.running -= 1
            self._recent.end(admission.decision.decision_id, outcome)
            self._loads.ended(admission.decision, admission.tenant.name, reply.sequences(), outcome.cached_tokens)
            self._record(admission, outcome)
            self._entrance.let_through()
        if admission.cache_key is not None and told and not outcome.cache_hit and outcome.limited_by is None:
            self._keep(admission.cache_key, admission, outcome, told)

    def _record(self, admission: Admission, outcome: RequestOutcome) -> None:
        decision = admission.decision
        event = event_of(
            admission.time_s,
            admission.request_id,
            decision.decision_id,
            admission.tenant,
            admission.ask,
            decision.policy_version,
            outcome,
            decision,
        )
        if decision.basis is not None and outcome.error_code is None:
            self._predictor.observe(decision.basis, observed_of(outcome, decision.basis.choices))
        self.metrics.generated(event)
        self.metrics.admission.ended(event, looked_up=admission.cache_key is not None)
        self._append(event)

    def _keep(self, key: bytes, admission: Admission, outcome: RequestOutcome, told: Sequence[Sequence[Piece]]) -> None:
        model = admission.decision.model
        kept = Kept(
            admission.decision,
            self._parts.fingerprint(model),
            tuple(whole(index, pieces) for index, pieces in enumerate(told)),
            outcome.prompt_tokens,
            max(len(request.prompt_token_ids) for request in admission.requests),
            outcome.completion_tokens,
        )
        self._answers.put(key, kept, time.monotonic(), admission.policy.cache)

    def system_fingerprint(self, model: str) -> str:
        """See GatewaySettings."""
        return self._parts.fingerprint(model)

    def models(self, tenant: Tenant) -> list[str]:
        """`auto` and what stands behind this endpoint and is granted to the tenant."""
        return [AUTO, *(name for name in tenant.models if name in self._loads.upstreams)]

    def waiting(self) -> Mapping[str, int]:
        """How many requests wait for room, by model."""
        return dict.fromkeys(self._loads.upstreams, 0) | dict(self._entrance.waiting())

    def health(self) -> tuple[bool, dict[str, object]]:
        """(whether requests are taken, every model's state)."""
        now_s = time.time()
        models = {name: self._state(load, now_s) for name, load in self._loads.reported().items()}
        ready = not self.draining and any(state["ready"] for state in models.values())
        status = "draining" if self.draining else "ok" if ready else "not_ready"
        return ready, {"status": status, "models": models}

    def decision(self, tenant: Tenant, decision_id: str) -> dict[str, object]:
        """A recent decision of the tenant's own. Raises RouteNotFound, the same for unknown and for others' ids."""
        return self._recent.of(tenant, decision_id)

    def _state(self, load: LoadSnapshot | None, now_s: float) -> dict[str, object]:
        if load is None:
            return {"ready": False, "drafter_attached": False, "running": 0, "queued": 0}
        return {
            "ready": now_s - load.time_s <= self.settings.snapshot_fresh_s,
            "drafter_attached": load.drafter_ready,
            "running": load.running_requests,
            "queued": load.queued_requests,
        }

    def _append(self, event: RequestEvent) -> None:
        if self.events is not None:
            self.events.append(event)


def _bearer(authorization: str | None) -> str | None:
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
