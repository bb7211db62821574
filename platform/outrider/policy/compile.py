"""From the documents people typed to the policy the platform reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time
from typing import TypeVar

from outrider.policy.model import (
    Admission,
    Balance,
    Budget,
    Cache,
    Key,
    Limits,
    ModelPolicy,
    Policy,
    Route,
    Routing,
    Team,
    Tenant,
    Tier,
)
from outrider.policy.schema import (
    BatchClassSpec,
    KeySpec,
    ModelSpec,
    PolicySpec,
    RouteSpec,
    TeamFileSpec,
    TeamSpec,
    TenantSpec,
    TierSpec,
)
from outrider.types import BatchClass

__all__ = ["PLATFORM", "compile_policy"]

PLATFORM = "platform"
"""The layer of the platform's own document."""

_VERSION_DIGITS = 12
_DAY_S = 86_400.0

Number = TypeVar("Number", int, float)


def compile_policy(spec: PolicySpec, teams: Sequence[TeamFileSpec] = ()) -> Policy:
    """Resolve references and units. The documents have passed their cross-checks: every name in them exists."""
    batch_classes = {name: _batch_class(name, each) for name, each in spec.batch_classes.items()}
    tiers = {name: _tier(name, each, batch_classes) for name, each in spec.tiers.items()}
    files = sorted(teams, key=lambda each: each.team)
    layers: list[tuple[str, PolicySpec | TeamFileSpec]] = [(PLATFORM, spec), *((file.team, file) for file in files)]
    routes = {layer: _Routes(layer, document.routes) for layer, document in layers}
    tenants: dict[str, Tenant] = {}
    keys: dict[str, Key] = {}
    for layer, document in layers:
        for name, each in document.tenants.items():
            keys |= _keys(name, each.keys)
            team = None if layer == PLATFORM else layer
            own = tuple(routes[at].of(name) for at in dict.fromkeys((PLATFORM, layer)))
            tenants[name] = _tenant(name, each, tiers[each.tier], spec, team, own)
    routing = spec.routing
    return Policy(
        version=_version(spec, files),
        models={name: _model(name, each) for name, each in spec.models.items()},
        batch_classes=batch_classes,
        tiers=tiers,
        tenants=tenants,
        routing=Routing(
            depth_caps=tuple(routing.depth_caps),
            expected_output_tokens=routing.expected_output_tokens,
            staleness_per_s=routing.staleness_per_s,
            verification=routing.verification,
            balance=Balance(**routing.balance.model_dump()),
            quantile=routing.quantile,
            exploration=routing.exploration,
        ),
        keys=keys,
        operators={digest: key for each in spec.operators for digest, key in _keys(each.name, [each]).items()},
        teams={name: _team(name, each) for name, each in spec.teams.items()},
        admission=Admission(
            max_waiting=spec.admission.max_waiting,
            max_wait_s=spec.admission.max_wait_ms / 1e3,
            ageing_per_s=spec.admission.ageing_per_s,
            reserve_quantile=spec.admission.reserve_quantile,
        ),
        cache=Cache(**spec.cache.model_dump()),
    )


def _version(spec: PolicySpec, teams: Sequence[TeamFileSpec]) -> str:
    documents = [spec.model_dump(mode="json"), *(each.model_dump(mode="json") for each in teams)]
    canonical = json.dumps(documents if teams else documents[0], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_VERSION_DIGITS]


def _model(name: str, spec: ModelSpec) -> ModelPolicy:
    price = spec.price_usd_per_million
    cached = price.input if price.cached_input is None else price.cached_input
    return ModelPolicy(name, price.input / 1e6, cached / 1e6, price.output / 1e6, spec.quality)


def _batch_class(name: str, spec: BatchClassSpec) -> BatchClass:
    return BatchClass(
        name=name,
        weight=spec.weight,
        prefill_share=spec.prefill_share,
        co_batch_tokens=spec.co_batch_tokens,
        admission_wait_s=spec.admission_wait_ms / 1e3,
        preemption_order=spec.preemption_order,
    )


def _tier(name: str, spec: TierSpec, batch_classes: dict[str, BatchClass]) -> Tier:
    return Tier(
        name=name,
        ttft_s=_seconds(spec.ttft_ms),
        tpot_s=_seconds(spec.tpot_ms),
        batch_classes=tuple(batch_classes[each] for each in (spec.batch_class, *spec.also_batch_classes)),
        max_depth=spec.max_depth,
        deadline_s=_seconds(spec.deadline_ms),
        priority=spec.priority,
        min_depth=spec.min_depth,
        degrade=tuple(spec.degrade),
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _tenant(
    name: str, spec: TenantSpec, tier: Tier, policy: PolicySpec, team: str | None, routes: tuple[tuple[Route, ...], ...]
) -> Tenant:
    grant = policy.teams.get(team) if team else None
    money = [spec.max_cost_usd_per_request, grant.max_cost_usd_per_request if grant else None]
    return Tenant(
        name=name,
        tier=tier,
        models=tuple(spec.models),
        max_depth=min(_given(spec.max_depth, tier.max_depth, grant.max_depth if grant else None)),
        max_cost_usd_per_request=min(_given(*money), default=None),
        objective=spec.objective or policy.tiers[tier.name].objective or policy.routing.objective,
        team=team,
        limits=_limits(spec),
        cache=spec.cache,
        routes=routes,
    )


def _team(name: str, spec: TeamSpec) -> Team:
    return Team(
        name=name,
        limits=_limits(spec),
        models=tuple(spec.models),
        tiers=tuple(spec.tiers),
        max_tenants=spec.max_tenants,
        max_depth=spec.max_depth,
        max_cost_usd_per_request=spec.max_cost_usd_per_request,
    )


def _given(*values: Number | None) -> list[Number]:
    return [value for value in values if value is not None]


def _limits(spec: TenantSpec | TeamSpec) -> Limits:
    return Limits(
        requests_per_minute=spec.requests_per_minute,
        tokens_per_minute=spec.tokens_per_minute,
        concurrency=spec.concurrency,
        budgets=tuple(Budget(each.usd, each.per, each.time_zone) for each in spec.budgets),
    )


def _keys(owner: str, specs: Iterable[KeySpec]) -> dict[str, Key]:
    return {
        key.sha256: Key(
            owner=owner,
            name=key.name,
            not_before_s=None if key.not_before is None else _midnight_s(key.not_before),
            expires_s=None if key.expires is None else _midnight_s(key.expires) + _DAY_S,
        )
        for key in specs
    }


def _midnight_s(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()


def _route(layer: str, spec: RouteSpec) -> Route:
    match, lengths = spec.match, spec.match.prompt_tokens
    return Route(
        name=spec.name,
        layer=layer,
        tags=None if match.tags is None else frozenset(match.tags),
        workflows=None if match.workflows is None else tuple(match.workflows),
        min_prompt_tokens=lengths.min if lengths else 0,
        max_prompt_tokens=lengths.max if lengths else None,
        objective=spec.objective,
        quality=spec.quality,
        models=None if spec.models is None else frozenset(spec.models),
        max_depth=spec.max_depth,
    )


class _Routes:
    """A layer's routes by the tenants that can take them, so that one tenant's cost nothing for the others."""

    def __init__(self, layer: str, specs: Iterable[RouteSpec]) -> None:
        self._common: list[tuple[int, Route]] = []
        self._named: dict[str, list[tuple[int, Route]]] = {}
        for index, spec in enumerate(specs):
            entry = (index, _route(layer, spec))
            if spec.match.tenants is None:
                self._common.append(entry)
            for tenant in spec.match.tenants or ():
                self._named.setdefault(tenant, []).append(entry)

    def of(self, tenant: str) -> tuple[Route, ...]:
        """Those that can match a tenant, in the order of the file."""
        entries = sorted([*self._common, *self._named.get(tenant, ())], key=lambda entry: entry[0])
        return tuple(route for _, route in entries)
