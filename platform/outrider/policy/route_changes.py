"""How routes differ between two policies: which requests go another way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outrider.policy.changes import Change
from outrider.policy.facts import described_route
from outrider.policy.model import Policy, Route

__all__ = ["route_changes"]

_SHOWN_TENANTS = 3


@dataclass(frozen=True, slots=True)
class _Taken:
    """A route and the tenants whose requests can take it."""

    route: Route
    tenants: frozenset[str]


def route_changes(old: Policy, new: Policy) -> Iterator[Change]:
    """Routes added, removed, changed in what they match or say, or moved before another."""
    before, after = _routes(old), _routes(new)
    stay = frozenset(name for name in old.tenants if name in new.tenants)
    for key in dict.fromkeys([*after, *before]):
        was, now = before.get(key), after.get(key)
        if _same(was, now, stay):
            continue
        names, tenants = ("/".join(key),), sorted((now or was or _NOBODY).tenants)
        then, shown = (None if each is None else _sentence(each) for each in (was, now))
        text = (
            f"now {shown}" if was is None else f"no longer: {then}" if now is None else f"now {shown}; before: {then}"
        )
        yield Change("route", names, "route", then, shown, "neutral", text, tuple(tenants))
    yield from _moves(old, new)


def _same(was: _Taken | None, now: _Taken | None, stay: frozenset[str]) -> bool:
    """Whether tenants that stay find the route as it was: those that come and go are said elsewhere."""
    if was is None or now is None:
        return was is not None and not was.tenants & stay
    return was.route == now.route and was.tenants & stay == now.tenants & stay


_NOBODY = _Taken(Route(""), frozenset())


def _routes(policy: Policy) -> dict[tuple[str, str], _Taken]:
    found: dict[tuple[str, str], tuple[Route, set[str]]] = {}
    for tenant in policy.tenants.values():
        for layer in tenant.routes:
            for route in layer:
                found.setdefault((route.layer, route.name), (route, set()))[1].add(tenant.name)
    return {key: _Taken(route, frozenset(tenants)) for key, (route, tenants) in found.items()}


def _sentence(taken: _Taken) -> str:
    """`requests of acme tagged code: cheapest`."""
    names = sorted(taken.tenants)
    more = f" and {len(names) - _SHOWN_TENANTS} more" if len(names) > _SHOWN_TENANTS else ""
    which, says = described_route(taken.route)
    return f"requests of {', '.join(names[:_SHOWN_TENANTS])}{more}{f' {which}' if which else ''}: {says}"


def _moves(old: Policy, new: Policy) -> Iterator[Change]:
    """Routes that stay but stand in another order: the first that matches counts."""
    moved: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for name, tenant in new.tenants.items():
        if name not in old.tenants:
            continue
        for layer, was, now in _layers(old.tenants[name].routes, tenant.routes):
            if was != now:
                moved.setdefault((layer, was, now), []).append(name)
    for (layer, was, now), tenants in moved.items():
        before, after = ", ".join(was), ", ".join(now)
        text = f"order is now {after}; before: {before}"
        yield Change("route", (layer,), "order", before, after, "neutral", text, tuple(sorted(tenants)))


def _layers(
    old: Sequence[Sequence[Route]], new: Sequence[Sequence[Route]]
) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """For each layer: the names of routes that both have, in the old order and in the new."""
    before, after = (
        {layer[0].layer: [each.name for each in layer] for layer in layers if layer} for layers in (old, new)
    )
    for layer, names in after.items():
        was = before.get(layer, [])
        yield layer, tuple(name for name in was if name in names), tuple(name for name in names if name in was)
