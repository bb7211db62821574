"""What changes for whom from one policy to another, in consequences rather than lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from outrider.policy.changes import Change, Step, compared, steps
from outrider.policy.facts import (
    Fact,
    Severity,
    admission_facts,
    batch_class_facts,
    cache_facts,
    count,
    key_fact,
    model_facts,
    routing_facts,
    team_facts,
    tenant_facts,
    tier_facts,
)
from outrider.policy.model import Key, Policy, Tenant
from outrider.policy.route_changes import route_changes

__all__ = ["Change", "diff", "sentences"]

_LISTED = 3
_LAYOUT = "the documents differ only in what has no effect: a bound behind a tighter one, or the order of names"


Part = TypeVar("Part")


def diff(old: Policy, new: Policy) -> tuple[Change, ...]:
    """Every change of effect, grouped by what happens; nothing when the versions are equal."""
    if old.version == new.version:
        return ()
    tiers, tenants = _tier_and_tenant_changes(old, new)
    changes = [
        *tenants,
        *_key_changes(old, new),
        *_parts("team", old.teams, new.teams, team_facts, _members(old, new)),
        *tiers,
        *route_changes(old, new),
        *_parts("model", old.models, new.models, model_facts, _users(old, new)),
        *_parts("batch class", old.batch_classes, new.batch_classes, batch_class_facts, {}),
        *_operator_changes(old, new),
        *compared("platform", ("admission",), admission_facts(old.admission), admission_facts(new.admission)),
        *compared("platform", ("cache",), cache_facts(old.cache), cache_facts(new.cache)),
        *compared("platform", ("routing",), routing_facts(old.routing), routing_facts(new.routing)),
    ]
    return tuple(changes) or (Change("platform", ("documents",), "layout", None, None, "neutral", _LAYOUT),)


def sentences(changes: Iterable[Change]) -> list[str]:
    """Changes as people read them: what happens to the same names is one sentence."""
    grouped: dict[tuple[str, tuple[str, ...]], list[Change]] = defaultdict(list)
    for change in changes:
        grouped[change.subject, change.names].append(change)
    return [f"{_who(subject, names)}: {'; '.join(map(_clause, group))}" for (subject, names), group in grouped.items()]


def _clause(change: Change) -> str:
    felt = bool(change.tenants) and change.what != "route"  # a route's text names its tenants itself
    return f"{change.text} ({_named('tenant', change.tenants)})" if felt else change.text


def _who(subject: str, names: tuple[str, ...]) -> str:
    return names[0] if subject == "platform" else _named(subject, names)


def _named(subject: str, names: tuple[str, ...]) -> str:
    """`tenant acme`, or `5 tenants (a, b, c and 2 more)`."""
    if len(names) == 1:
        return f"{subject} {names[0]}"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    plural = f"{subject}es" if subject.endswith("s") else f"{subject}s"
    return f"{count(len(names))} {plural} ({', '.join(names[:_LISTED])}{more})"


def _parts(
    subject: str,
    old: Mapping[str, Part],
    new: Mapping[str, Part],
    facts: Callable[[Part], list[Fact]],
    tenants: Mapping[str, list[str]],
) -> Iterator[Change]:
    """Changes of named parts, those added and removed included; `tenants` feel them, by the part's name."""
    for name in sorted({*old, *new}):
        feel = tuple(sorted(tenants.get(name, ())))
        if name not in old:
            described = _described(facts(new[name]))
            yield Change(subject, (name,), subject, None, described, "loosens", f"is new: {described}", feel)
        elif name not in new:
            yield Change(subject, (name,), subject, _described(facts(old[name])), None, "tightens", "is gone", feel)
        elif old[name] != new[name]:
            yield from compared(subject, (name,), facts(old[name]), facts(new[name]), feel)


def _described(facts: Iterable[Fact]) -> str:
    """What a new part is, without what does not bind."""
    return ", ".join(
        fact.label if fact.holds else f"{fact.label} {fact.shown}" for fact in facts if fact.value is not None
    )


def _tier_and_tenant_changes(old: Policy, new: Policy) -> tuple[list[Change], list[Change]]:
    """A tier's changes with the tenants that feel them, and what changes for tenants beyond their tier's changes."""
    stay = sorted(name for name in old.tenants if name in new.tenants)
    of_tiers = {
        name: list(steps(tier_facts(old.tiers[name]), tier_facts(new.tiers[name])))
        for name in sorted(old.tiers)
        if name in new.tiers and old.tiers[name] != new.tiers[name]
    }
    feel: dict[tuple[str, Step], list[str]] = {}
    own: dict[Step, list[str]] = {}
    for name in stay:
        before, after = old.tenants[name], new.tenants[name]
        if before == after:
            continue
        tier = after.tier.name if before.tier.name == after.tier.name else None
        for step in steps(tenant_facts(before), tenant_facts(after)):
            if tier is not None and step in of_tiers.get(tier, ()):
                feel.setdefault((tier, step), []).append(name)
            else:
                own.setdefault(step, []).append(name)
    tiers = [
        step.change("tier", [name], feel.get((name, step), ())) for name, each in of_tiers.items() for step in each
    ]
    rest = {name: tier for name, tier in old.tiers.items() if name not in new.tiers}
    added = {name: tier for name, tier in new.tiers.items() if name not in old.tiers}
    tiers += _parts("tier", rest, added, tier_facts, {})
    return tiers, [*_gone_and_new(old, new), *(step.change("tenant", names) for step, names in own.items())]


def _gone_and_new(old: Policy, new: Policy) -> Iterator[Change]:
    gone: dict[str, list[str]] = {}
    fresh: dict[str, list[str]] = {}
    for groups, policy, other in ((gone, old, new), (fresh, new, old)):
        for name, tenant in policy.tenants.items():
            if name not in other.tenants:
                groups.setdefault(_terms(tenant), []).append(name)
    for terms, names in gone.items():
        ordered = tuple(sorted(names))
        text = "is gone: its keys are refused" if len(names) == 1 else "are gone: their keys are refused"
        yield Change("tenant", ordered, "tenant", terms, None, "tightens", text)
    for terms, names in fresh.items():
        verb = "is" if len(names) == 1 else "are"
        yield Change("tenant", tuple(sorted(names)), "tenant", None, terms, "loosens", f"{verb} new: {terms}")


def _terms(tenant: Tenant) -> str:
    """What a new tenant gets: its tier by name, then all that is its own."""
    of_tier = {(fact.what, fact.value) for fact in tier_facts(tenant.tier)}
    return _described(fact for fact in tenant_facts(tenant) if (fact.what, fact.value) not in of_tier)


def _key_changes(old: Policy, new: Policy) -> Iterator[Change]:
    """Keys of tenants that stay: had, lost, replaced under the same name, or good for other days."""
    before, after = _keys_by_owner(old.keys), _keys_by_owner(new.keys)
    groups: dict[Step, list[str]] = {}
    for owner in sorted(name for name in old.tenants if name in new.tenants):
        was, now = before.get(owner, {}), after.get(owner, {})
        for name in dict.fromkeys([*was, *now]):
            step = _key_step(was.get(name), now.get(name))
            if step is not None:
                groups.setdefault(step, []).append(owner)
    for step, owners in groups.items():
        yield step.change("tenant", owners)


def _keys_by_owner(keys: Mapping[str, Key]) -> dict[str, dict[str, tuple[str, Key]]]:
    found: dict[str, dict[str, tuple[str, Key]]] = {}
    for digest, key in keys.items():
        found.setdefault(key.owner, {})[key.name] = (digest, key)
    return found


def _key_step(was: tuple[str, Key] | None, now: tuple[str, Key] | None) -> Step | None:
    before, after = (None if each is None else key_fact(each[1]) for each in (was, now))
    if before is None and after is not None:
        return Step(after.what, None, after.value, "loosens", f"{{gain}} {after.label}, which {after.shown}")
    if after is None and before is not None:
        return Step(
            before.what, before.value, None, "tightens", f"{{lose}} {before.label}: whoever holds it is refused"
        )
    if was is None or now is None or before is None or after is None:
        return None
    if was[0] != now[0]:
        text = f"{{have}} {after.label} replaced: the old one is refused, the new one {after.shown}"
        return Step(after.what, before.value, after.value, "neutral", text)
    if before.value != after.value:
        longer = (now[1].expires_s or float("inf")) > (was[1].expires_s or float("inf"))
        severity: Severity = "loosens" if longer else "tightens"
        text = f"{{its}} {after.label} {after.shown} (before: {before.shown})"
        return Step(after.what, before.value, after.value, severity, text)
    return None


def _operator_changes(old: Policy, new: Policy) -> Iterator[Change]:
    before, after = (
        {(key.owner, digest): (digest, key) for digest, key in policy.operators.items()} for policy in (old, new)
    )
    for owner, digest in dict.fromkeys([*before, *after]):
        step = _key_step(before.get((owner, digest)), after.get((owner, digest)))
        if step is not None:
            yield step.change("operator", [owner])


def _members(old: Policy, new: Policy) -> dict[str, list[str]]:
    """Tenants by team, now or before."""
    found: dict[str, set[str]] = {}
    for tenant in (*old.tenants.values(), *new.tenants.values()):
        if tenant.team is not None:
            found.setdefault(tenant.team, set()).add(tenant.name)
    return {team: sorted(names) for team, names in found.items()}


def _users(old: Policy, new: Policy) -> dict[str, list[str]]:
    """Tenants by the model that they may use, now or before."""
    found: dict[str, set[str]] = {}
    for tenant in (*old.tenants.values(), *new.tenants.values()):
        for model in tenant.models:
            found.setdefault(model, set()).add(tenant.name)
    return {model: sorted(names) for model, names in found.items()}
