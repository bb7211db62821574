"""Which routes a request takes, and what they leave open to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from outrider.policy.model import Route, Tenant
from outrider.policy.schema import Objective

__all__ = ["EffectiveRoute", "effective_route"]


@dataclass(frozen=True, slots=True)
class EffectiveRoute:
    """What the policy says about one request, before the request's own limits tighten it.

    quality: floor on the model's score, None is none. models: those it may use, in the tenant's order; empty when its
    routes leave none, and then nothing may serve it. names: `layer/route` of each route taken, the platform's first.
    """

    objective: Objective
    quality: float | None
    models: tuple[str, ...]
    max_depth: int
    names: tuple[str, ...] = ()


def effective_route(
    tenant: Tenant, prompt_tokens: int, tags: Collection[str] = (), workflow: str | None = None
) -> EffectiveRoute:
    """Fold the first matching route of each layer into the tenant's own settings.

    Bounds add up: the highest quality floor, the models that all allow, the least depth. The objective is a choice:
    the last layer that names one has it, so a team chooses within what the platform allows.
    Costs as much as the tenant has routes, however many tenants there are.
    """
    if not any(tenant.routes):
        return EffectiveRoute(tenant.objective, None, tenant.models, tenant.max_depth)
    objective, quality, depth = tenant.objective, None, tenant.max_depth
    models = tenant.models
    names: list[str] = []
    for layer in tenant.routes:
        route = _first(layer, prompt_tokens, tags, workflow)
        if route is None:
            continue
        names.append(f"{route.layer}/{route.name}")
        objective = route.objective or objective
        quality = route.quality if quality is None else max(quality, route.quality or 0.0)
        if route.models is not None:
            models = tuple(name for name in models if name in route.models)
        if route.max_depth is not None:
            depth = min(depth, route.max_depth)
    return EffectiveRoute(objective, quality, models, depth, tuple(names))


def _first(layer: tuple[Route, ...], prompt_tokens: int, tags: Collection[str], workflow: str | None) -> Route | None:
    return next((route for route in layer if route.matches(prompt_tokens, tags, workflow)), None)
