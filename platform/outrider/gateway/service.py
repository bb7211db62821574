"""The gateway itself: who may call, where a request goes, and what is remembered of it."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from outrider.errors import InvalidRequest, NotReady, OutriderError, RouteNotFound
from outrider.gateway.admission import Admission, engine_requests, new_decision_id, route
from outrider.gateway.asks import Ask
from outrider.gateway.call import Call
from outrider.gateway.credit import InFlightCredit
from outrider.gateway.encoding import tokenise
from outrider.gateway.generation import Generation
from outrider.gateway.settings import GatewaySettings
from outrider.gateway.upstream import Upstream
from outrider.policy import AUTO, Policy, Tenant
from outrider.telemetry import EventLog, Metrics, RequestEvent, RequestOutcome
from outrider.text import TextModel
from outrider.types import Decision, LoadSnapshot

__all__ = ["Caller", "Gateway"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and the policy that says so: one policy rules a request from its key to its price."""

    tenant: Tenant
    policy: Policy


@dataclass(slots=True)
class _Remembered:
    """A recent decision; `outcome` is None while its request runs."""

    tenant: str
    request_id: str
    decision: Decision
    outcome: RequestOutcome | None = None


class Gateway:
    """Shared by every request of one process; lives on one event loop.

    policy is asked for anew by every request, so replacing what it returns is how a policy is applied. upstreams
    and texts are read live. `events` None keeps no event log.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        policy: Callable[[], Policy],
        upstreams: Mapping[str, Upstream],
        texts: Mapping[str, TextModel],
        *,
        metrics: Metrics | None = None,
        events: EventLog | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.events = events
        self.running = 0
        self.draining = False
        self._policy = policy
        self._upstreams = upstreams
        self.texts = texts
        self._credits: defaultdict[str, InFlightCredit] = defaultdict(InFlightCredit)
        self._recent: OrderedDict[str, _Remembered] = OrderedDict()
        self.metrics.watch(self._snapshots, time.time)

    def drain(self) -> None:
        """Refuse new requests from now on; running ones finish (`running` counts them)."""
        self.draining = True

    def authenticate(self, call: Call, authorization: str | None) -> Caller:
        """The caller behind a bearer key. Raises InvalidKey."""
        policy = self._policy()
        scheme, _, key = (authorization or "").partition(" ")
        tenant = policy.tenant_for_key(key.strip() if scheme.lower() == "bearer" else None, time.time())
        call.tenant = tenant.name
        return Caller(tenant, policy)

    async def open(self, call: Call, caller: Caller, ask: Ask) -> Generation:
        """Route a request; the model starts on it when the generation is iterated. Raises typed refusals."""
        time_s, tenant, policy = time.time(), caller.tenant, caller.policy
        self._check_size(ask)
        prompts = await tokenise(ask, tenant, self.texts)
        if self.draining:  # after the only await: from here to `begin` nobody can start to drain
            raise NotReady("this gateway is shutting down; another one takes the request")
        decision_id = call.decision_id = new_decision_id()
        try:
            decision = route(
                ask,
                tenant,
                prompts,
                self._loads(),
                policy,
                now_s=time.time(),
                decision_id=decision_id,
                default_max_tokens=self.settings.default_max_tokens,
            )
        except OutriderError as error:
            outcome = RequestOutcome(
                status=error.status, error_code=error.code, e2e_s=time.monotonic() - call.received_s
            )
            self._append(_event(time_s, call.request_id, decision_id, tenant, ask, policy.version, outcome))
            raise
        call.model = decision.model
        text = self.texts[decision.model]
        requests = engine_requests(ask, decision, prompts[decision.model], text, tenant)
        for request in requests:
            self._credits[decision.model].dispatched(time.time(), len(request.prompt_token_ids))
        self._remember(decision_id, _Remembered(tenant.name, call.request_id, decision))
        admission = Admission(
            ask=ask,
            tenant=tenant,
            decision=decision,
            requests=requests,
            text=text,
            price=policy.models[decision.model],
            request_id=call.request_id,
            received_s=call.received_s,
            time_s=time_s,
        )
        return Generation(admission, self._upstreams[decision.model])

    def _check_size(self, ask: Ask) -> None:
        """Raises InvalidRequest for more choices than one request may ask for."""
        limit, choices = self.settings.max_choices, ask.n * len(ask.prompts)
        if choices > limit:
            field = "n" if len(ask.prompts) == 1 else "prompt"
            asked = f"{ask.n}" if field == "n" else f"{len(ask.prompts)} prompts with n {ask.n}"
            raise InvalidRequest(f"'{field}': {asked} is more than the {limit} choices of one request", param=field)

    def begin(self) -> None:
        """Count a generation as running; `settle` ends that."""
        self.running += 1

    def settle(self, generation: Generation, status: int, error: OutriderError | None = None) -> None:
        """Account for a generation that ended, however it did; the first call counts."""
        if generation.settled:
            return
        generation.settled = True
        self.running -= 1
        admission, outcome = generation.admission, generation.outcome(status, error)
        decision = admission.decision
        remembered = self._recent.get(decision.decision_id)
        if remembered is not None:
            remembered.outcome = outcome
        event = _event(
            admission.time_s,
            admission.request_id,
            decision.decision_id,
            admission.tenant,
            admission.ask,
            decision.policy_version,
            outcome,
            decision,
        )
        self.metrics.generated(event)
        self._append(event)

    def system_fingerprint(self, model: str) -> str:
        """See GatewaySettings."""
        return self.settings.system_fingerprint(model, self.texts[model].fingerprint)

    def models(self, tenant: Tenant) -> list[str]:
        """`auto` and what stands behind this endpoint and is granted to the tenant."""
        return [AUTO, *(name for name in tenant.models if name in self._upstreams)]

    def health(self) -> tuple[bool, dict[str, object]]:
        """(whether requests are taken, every model's state)."""
        now_s = time.time()
        models = {name: self._state(load, now_s) for name, load in self._snapshots().items()}
        ready = not self.draining and any(state["ready"] for state in models.values())
        status = "draining" if self.draining else "ok" if ready else "not_ready"
        return ready, {"status": status, "models": models}

    def decision(self, tenant: Tenant, decision_id: str) -> dict[str, object]:
        """A recent decision of the tenant's own. Raises RouteNotFound, the same for unknown and for others' ids."""
        found = self._recent.get(decision_id)
        if found is None or found.tenant != tenant.name:
            raise RouteNotFound("no recent decision of yours has this id", param="id")
        return {
            "object": "outrider.decision",
            "id": decision_id,
            "request_id": found.request_id,
            "decision": found.decision,
            "outcome": found.outcome,
        }

    def _snapshots(self) -> dict[str, LoadSnapshot | None]:
        return {name: upstream.snapshot() for name, upstream in self._upstreams.items()}

    def _loads(self) -> dict[str, LoadSnapshot]:
        loads = self._snapshots()
        return {name: self._credits[name].applied(load) for name, load in loads.items() if load is not None}

    def _state(self, load: LoadSnapshot | None, now_s: float) -> dict[str, object]:
        if load is None:
            return {"ready": False, "drafter_attached": False, "running": 0, "queued": 0}
        return {
            "ready": now_s - load.time_s <= self.settings.snapshot_fresh_s,
            "drafter_attached": load.drafter_ready,
            "running": load.running_requests,
            "queued": load.queued_requests,
        }

    def _remember(self, decision_id: str, entry: _Remembered) -> None:
        self._recent[decision_id] = entry
        while len(self._recent) > self.settings.recent_decisions:
            self._recent.popitem(last=False)

    def _append(self, event: RequestEvent) -> None:
        if self.events is not None:
            self.events.append(event)


def _event(
    time_s: float,
    request_id: str,
    decision_id: str,
    tenant: Tenant,
    ask: Ask,
    policy_version: str,
    outcome: RequestOutcome,
    decision: Decision | None = None,
) -> RequestEvent:
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
        choices=ask.n * len(ask.prompts),
    )
