"""Which models and replicas are open to a request at all: granted, ready, long enough, good enough, affordable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from outrider.errors import ModelNotAllowed, ModelNotFound
from outrider.policy import AUTO, EffectiveRoute, ModelPolicy, Policy
from outrider.routing.corrections import Corrections, Spread
from outrider.routing.query import RouteQuery
from outrider.types import LoadSnapshot

__all__ = ["Closed", "Closure", "Road", "granted_models", "quality_of", "survey"]

_MONEY_SLACK = 1e-9  # tokens; a budget that pays for exactly n tokens must not lose one to rounding


class Closed(StrEnum):
    """Why a model is out of the question whatever its load."""

    NOT_READY = "not_ready"
    CONTEXT = "context"
    MONEY = "money"
    QUALITY = "quality"
    ROUTE = "route"


@dataclass(frozen=True, slots=True)
class Closure:
    """A model that cannot take the request, and the sentence that says why."""

    model: str
    kind: Closed
    why: str


class Road(NamedTuple):
    """A model's replica that could take the request; a tuple, since a decision makes one for each of them.

    max_tokens: output limit of a choice after context and money. output_tokens: its expected length. cost_usd: of all
    choices at that; list_usd: were nothing cached. Candidates are compared by the latter: what a replica holds makes it
    faster, and must not draw all work to it for being cheaper. reserve_usd: at the policy's reserve quantile.
    prompt_tokens: of all prompts, cached ones not. long_output_tokens: length at the routing quantile. ttft, tpot: how
    outcomes lie about raw predictions.
    """

    model: ModelPolicy
    snapshot: LoadSnapshot
    prompt_tokens: int
    cached_tokens: int
    max_tokens: int
    limited_by_cost: bool
    output_tokens: int
    long_output_tokens: int
    cost_usd: float
    list_usd: float
    reserve_usd: float
    quality: float
    accepted_ratio: float
    ttft: Spread
    tpot: Spread
    age_s: float
    widening: float


def granted_models(query: RouteQuery, policy: Policy) -> tuple[str, ...]:
    """The models to look at. Raises ModelNotFound, ModelNotAllowed."""
    if query.model == AUTO:
        return query.tenant.models
    if query.model not in policy.models:
        known = ", ".join([AUTO, *query.tenant.models])
        raise ModelNotFound(f"the model {query.model[:80]!r} does not exist; yours are {known}", param="model")
    if query.model not in query.tenant.models:
        granted = ", ".join(query.tenant.models)
        raise ModelNotAllowed(f"the model {query.model!r} is not granted to you; yours are {granted}", param="model")
    return (query.model,)


def quality_of(model: ModelPolicy, query: RouteQuery) -> float:
    """Probability that the model's answer is right: as estimated for this request, else as measured on its domain."""
    estimated = query.success.get(model.name)
    return model.quality_for((*query.tags, query.domain)) if estimated is None else estimated


def survey(
    query: RouteQuery,
    snapshots: Mapping[str, Sequence[LoadSnapshot]],
    policy: Policy,
    rules: EffectiveRoute,
    corrections: Corrections,
    now_s: float,
) -> tuple[list[Road], list[Closure]]:
    """Look at every model that may be meant: roads to its replicas, or why it is closed."""
    roads: list[Road] = []
    closures: list[Closure] = []
    for name in granted_models(query, policy):
        offer = _Offer(query, policy, rules, corrections, name)
        found = offer.closed() or list(offer.roads(snapshots.get(name, ()), now_s))
        if isinstance(found, list) and not found:
            found = offer.nothing_ready(snapshots.get(name, ()))
        if isinstance(found, Closure):
            closures.append(found)
        else:
            roads += found
    return roads, closures


class _Offer:
    """One model to one request: what holds on every replica is worked out once."""

    def __init__(
        self, query: RouteQuery, policy: Policy, rules: EffectiveRoute, corrections: Corrections, name: str
    ) -> None:
        self._query, self._policy, self._rules, self._corrections = query, policy, rules, corrections
        self._model = model = policy.models[name]
        self._quality = quality_of(model, query)
        self._prompt = query.prompt_tokens.get(name)
        self._paid = 0 if self._prompt is None else query.paid_prompt_tokens(name)
        self._length = corrections.length(query.tenant.name, query.domain, name)
        self._ratio = corrections.accepted_ratio(query.tenant.name, query.domain, name)
        self._affordable = _affordable_tokens(model, self._paid, _money_usd(query), query.choices)
        self._lengths: dict[tuple[int, int], tuple[int, int, float, float, float]] = {}

    def closed(self) -> Closure | None:
        """Why no replica may take it, whatever their load."""
        query, name, quality = self._query, self._model.name, self._quality
        if name not in self._rules.models:
            taken = ", ".join(self._rules.names)
            return Closure(name, Closed.ROUTE, f"{name} is not among the models of the policy's route {taken}")
        floor = query.budgets.quality
        if floor is not None and quality < floor:
            return Closure(name, Closed.QUALITY, f"{name} has quality {quality:g}, below {floor:g}")
        floor = self._rules.quality
        if floor is not None and quality < floor and "quality" not in query.tenant.tier.degrade:
            taken = ", ".join(self._rules.names)
            return Closure(name, Closed.QUALITY, f"{name} has quality {quality:g}, below {floor:g} of route {taken}")
        return None

    def nothing_ready(self, snapshots: Sequence[LoadSnapshot]) -> Closure:
        """Why none of its replicas can take it."""
        name, query = self._model.name, self._query
        measured = [each for each in snapshots if len(each.step_curve) >= 2]
        if not snapshots or self._prompt is None:
            return Closure(name, Closed.NOT_READY, f"no healthy replica of {name} is known")
        if not measured:
            return Closure(name, Closed.NOT_READY, f"{name} has not measured its step costs yet")
        longest = max(each.context_tokens for each in measured)
        if self._prompt + (query.max_tokens or 1) > longest:
            asked = f"{self._prompt} prompt tokens" + (
                f" and max_tokens {query.max_tokens}" if query.max_tokens else ""
            )
            return Closure(name, Closed.CONTEXT, f"{asked} exceed the {longest} of {name}")
        need = self._model.cost_usd(self._paid, query.choices)
        tokens = "one token" if query.choices == 1 else f"one token of each of {query.choices} choices"
        return Closure(name, Closed.MONEY, f"{name} needs ${need:.8f} for the prompt and {tokens}")

    def roads(self, snapshots: Sequence[LoadSnapshot], now_s: float) -> Iterator[Road]:
        """Those of its replicas that can take it."""
        query, prompt, paid, affordable = self._query, self._prompt, self._paid, self._affordable
        if prompt is None or affordable < 1:
            return
        wanted, staleness_per_s = query.max_tokens, self._policy.routing.staleness_per_s
        for snapshot in snapshots:
            room = snapshot.context_tokens - prompt if wanted is None else wanted
            if len(snapshot.step_curve) < 2 or room < 1 or prompt + room > snapshot.context_tokens:
                continue
            max_tokens = room if room <= affordable else int(affordable)
            cached = min(query.cached_tokens.get(snapshot.replica, 0), paid - 1) if query.cached_tokens else 0
            output, long_output, cost_usd, list_usd, reserve_usd = self._expected(max_tokens, cached)
            ttft, tpot = self._corrections.spreads(
                self._model.name,
                snapshot.running_requests + snapshot.queued_requests,
                snapshot.max_running_requests,
                paid - cached,
                snapshot.replica,
            )
            age_s = now_s - snapshot.time_s
            if age_s < 0.0:
                age_s = 0.0
            yield Road(
                self._model, snapshot, paid - cached, cached, max_tokens, affordable < room, output, long_output,
                cost_usd, list_usd, reserve_usd, self._quality, self._ratio, ttft, tpot,
                age_s, 1.0 + staleness_per_s * age_s,
            )  # fmt: skip

    def _expected(self, max_tokens: int, cached: int) -> tuple[int, int, float, float, float]:
        """Expected length under a limit, its routing quantile; dollars with and without cache, and to reserve."""
        found = self._lengths.get((max_tokens, cached))
        if found is None:
            routing, default = self._policy.routing, self._policy.routing.expected_output_tokens
            model, choices = self._model, self._query.choices
            output = self._length.mean(max_tokens, default)
            reserved = self._length.at(self._policy.admission.reserve_quantile, max_tokens, default)
            found = self._lengths[max_tokens, cached] = (
                output,
                self._length.at(routing.quantile, max_tokens, default),
                model.cost_usd(self._paid, output * choices, cached),
                model.cost_usd(self._paid, output * choices),
                model.cost_usd(self._paid, reserved * choices),
            )
        return found


def _money_usd(query: RouteQuery) -> float:
    limits = (query.budgets.max_cost_usd, query.tenant.max_cost_usd_per_request)
    return min((limit for limit in limits if limit is not None), default=math.inf)


def _affordable_tokens(model: ModelPolicy, prompt_tokens: int, money_usd: float, choices: int) -> float:
    """Output tokens of each choice that the money left after the prompt pays for; infinite where output is free."""
    left = money_usd - prompt_tokens * model.input_usd_per_token
    if left < 0:
        return 0.0
    if math.isinf(left) or model.output_usd_per_token == 0:
        return math.inf
    return float(math.floor(left / (choices * model.output_usd_per_token) + _MONEY_SLACK))
