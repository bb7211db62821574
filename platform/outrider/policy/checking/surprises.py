"""Legal, but probably not meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from outrider.documents import Document, Problem, shown
from outrider.policy.keys import DEMO_KEY, DEMO_OPERATOR_KEY, hash_key
from outrider.policy.schema import MatchSpec, PolicySpec, RouteSpec, TeamFileSpec, TenantSpec

__all__ = ["surprises"]

_SHOWN_TENANTS = 3


def surprises(
    spec: PolicySpec, document: Document, teams: Sequence[tuple[TeamFileSpec, Document]]
) -> Iterator[Problem]:
    """Warnings of documents that have passed every check."""
    yield from _platform(spec, document)
    layers: list[tuple[PolicySpec | TeamFileSpec, Document]] = [(spec, document), *teams]
    for layer, each in layers:
        yield from _tenants(layer.tenants, spec, each)
        yield from _unreachable(layer.routes, each)
    everybody = {name: tenant for layer, _ in layers for name, tenant in layer.tenants.items()}
    for layer, each in layers:
        yield from _some_left_without(layer, everybody if layer is spec else layer.tenants, each)


def _platform(spec: PolicySpec, document: Document) -> Iterator[Problem]:
    for index, key in enumerate(spec.operators):
        if key.sha256 == hash_key(DEMO_OPERATOR_KEY):
            message = (
                "this is the documented operator key, known to all; replace it with `outrider keys new --operator`"
            )
            yield document.problem(("operators", index, "sha256"), message)
    granted = {name for tenant in spec.tenants.values() for name in tenant.models}
    granted |= {name for team in spec.teams.values() for name in team.models}
    for name, model in spec.models.items():
        price = model.price_usd_per_million
        if price.cached_input is not None and price.cached_input > price.input:
            message = f"dearer than input, {price.input:g}: a prompt would cost more for being known"
            yield document.problem(("models", name, "price_usd_per_million", "cached_input"), message)
        if name not in granted:
            yield document.problem(("models", name), "no tenant may use it", at_key=True)
    for name, tier in spec.tiers.items():
        for field, target in (("ttft_ms", tier.ttft_ms), ("deadline_ms", tier.deadline_ms)):
            for each in (tier.batch_class, *tier.also_batch_classes):
                wait = spec.batch_classes[each].admission_wait_ms
                if target is not None and target < wait:
                    message = f"out of reach in batch class {shown(each)}, which may hold a request for {wait:g} ms"
                    yield document.problem(("tiers", name, field), message)


def _tenants(tenants: dict[str, TenantSpec], spec: PolicySpec, document: Document) -> Iterator[Problem]:
    demo = hash_key(DEMO_KEY)
    for name, tenant in tenants.items():
        for index, key in enumerate(tenant.keys):
            if key.sha256 == demo:
                message = "this is the documented demo key, known to all; replace it with `outrider keys new`"
                yield document.problem(("tenants", name, "keys", index, "sha256"), message)
        if not tenant.keys:
            yield document.problem(("tenants", name, "keys"), "no key: nobody can call as this tenant")
        bound = spec.tiers[tenant.tier].max_depth
        if tenant.max_depth is not None and tenant.max_depth > bound:
            message = f"has no effect: tier '{tenant.tier}' allows {bound} at most"
            yield document.problem(("tenants", name, "max_depth"), message)


def _unreachable(routes: Sequence[RouteSpec], document: Document) -> Iterator[Problem]:
    for index, route in enumerate(routes):
        for earlier in routes[:index]:
            if _covers(earlier.match, route.match):
                message = f"never taken: route '{earlier.name}' before it matches all that it matches"
                yield document.problem(("routes", index, "name"), message)
                break


def _covers(wide: MatchSpec, narrow: MatchSpec) -> bool:
    """Whether every request that `narrow` matches is matched by `wide` too, as far as one look at each shows."""
    for field in ("tenants", "tags"):
        outer, inner = getattr(wide, field), getattr(narrow, field)
        if outer is not None and (inner is None or not set(inner) <= set(outer)):
            return False
    if wide.workflows is not None:
        if narrow.workflows is None:
            return False
        if not all(any(_covers_pattern(outer, inner) for outer in wide.workflows) for inner in narrow.workflows):
            return False
    if wide.prompt_tokens is None:
        return True
    inner_min = narrow.prompt_tokens.min if narrow.prompt_tokens else 0
    inner_max = narrow.prompt_tokens.max if narrow.prompt_tokens else None
    most = wide.prompt_tokens.max
    return wide.prompt_tokens.min <= inner_min and (most is None or (inner_max is not None and inner_max <= most))


def _covers_pattern(outer: str, inner: str) -> bool:
    return inner.startswith(outer[:-1]) if outer.endswith("*") else inner == outer


def _some_left_without(
    layer: PolicySpec | TeamFileSpec, tenants: dict[str, TenantSpec], document: Document
) -> Iterator[Problem]:
    """Routes with `models` that leave some of their tenants none; those that leave all of them none are errors."""
    for index, route in enumerate(layer.routes):
        if route.models is None:
            continue
        meant = route.match.tenants or tenants
        without = [name for name in meant if not set(tenants[name].models) & set(route.models)]
        if without:
            more = f" and {len(without) - _SHOWN_TENANTS} more" if len(without) > _SHOWN_TENANTS else ""
            listed = ", ".join(without[:_SHOWN_TENANTS]) + more
            yield document.problem(("routes", index, "models"), f"requests of {listed} that take it will be refused")
