"""Team documents against what the platform's document grants: team ≤ platform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from outrider.documents import Document, Path, Problem, shown, unknown
from outrider.policy.checking.raw import Mapping, fields, mappings, number, section, strings

__all__ = ["grant_problems", "ownership_problems"]

_RATES = ("requests_per_minute", "tokens_per_minute", "concurrency")
_BOUNDS = ("max_depth", "max_cost_usd_per_request")
_PERIODS = ("hour", "day", "week", "month")


def ownership_problems(platform: Document, teams: Sequence[Document]) -> Iterator[Problem]:
    """One file per granted team; one file per tenant."""
    granted = section(platform, "teams")
    files: dict[str, Document] = {}
    tenants = dict.fromkeys(section(platform, "tenants"), platform)
    for document in teams:
        team = fields(document.data).get("team")
        if isinstance(team, str):
            if team not in granted:
                yield document.problem(("team",), unknown("team", team, granted))
            elif team in files:
                yield document.problem(("team",), f"team {shown(team)} has a file already: {files[team].file}")
            files.setdefault(team, document)
        for name in section(document, "tenants"):
            if name in tenants:
                other = tenants[name]
                line = other.keys[("tenants", name)][0]
                message = f"a tenant of this name stands in {other.file} on line {line}; give it another name"
                yield document.problem(("tenants", name), message, at_key=True)
            tenants.setdefault(name, document)


def grant_problems(document: Document, platform: Document) -> Iterator[Problem]:
    """Whatever a team's document takes beyond its grant."""
    team = fields(document.data).get("team")
    grants = section(platform, "teams")
    if not isinstance(team, str) or team not in grants:
        return
    grant, owner = grants[team], f"team {shown(team)}"
    tenants = section(document, "tenants")
    most = number(grant.get("max_tenants"))
    if most is not None and len(tenants) > most:
        message = f"{owner} is granted {most:g} at most, got {len(tenants)}"
        yield document.problem(("tenants",), message, at_key=True)
    models, tiers = section(platform, "models"), section(platform, "tiers")
    for name, tenant in tenants.items():
        place = ("tenants", name)
        yield from _names(document, (*place, "models"), tenant.get("models"), "model", owner, grant, models)
        yield from _names(document, (*place, "tier"), tenant.get("tier"), "tier", owner, grant, tiers)
        yield from _numbers(document, place, tenant, (*_BOUNDS, *_RATES), owner, grant)
        yield from _budgets(document, (*place, "budgets"), tenant.get("budgets"), owner, grant)
    for index, route in mappings(fields(document.data).get("routes")):
        place_ = ("routes", index)
        yield from _names(document, (*place_, "models"), route.get("models"), "model", owner, grant, models)
        yield from _numbers(document, place_, route, ("max_depth",), owner, grant)


def _names(
    document: Document, path: Path, value: object, kind: str, owner: str, grant: Mapping, known: dict[str, Mapping]
) -> Iterator[Problem]:
    """A name, or each of a list, that the platform knows but does not grant."""
    granted = strings(grant.get(f"{kind}s"))
    complete = bool(granted) and all(each in known for each in granted)
    places: list[tuple[Path, object]] = [(path, value)]
    if isinstance(value, list):
        places = [((*path, index), each) for index, each in enumerate(value)]
    for place, name in places:
        if complete and isinstance(name, str) and name in known and name not in granted:
            listed = ", ".join(sorted(granted))
            yield document.problem(place, f"{owner} is not granted {kind} {shown(name)}; granted: {listed}")


def _numbers(
    document: Document, place: Path, value: Mapping, names: Sequence[str], owner: str, grant: Mapping
) -> Iterator[Problem]:
    for name in names:
        most, asked = number(grant.get(name)), number(value.get(name))
        if most is not None and asked is not None and asked > most:
            yield document.problem((*place, name), f"{owner} is granted {most:g} at most, got {asked:g}")


def _budgets(document: Document, place: Path, budgets: object, owner: str, grant: Mapping) -> Iterator[Problem]:
    """A tenant's budget beyond the team's for the same or a longer period: it could never be spent."""
    granted = [(usd, each["per"]) for _, each in mappings(grant.get("budgets")) if (usd := _usd(each)) is not None]
    for index, budget in mappings(budgets):
        usd = _usd(budget)
        if usd is None:
            continue
        span = _PERIODS.index(str(budget["per"]))
        for most, per in granted:
            if usd > most and span <= _PERIODS.index(str(per)):
                message = f"{owner} is granted {most:g} per {per} at most, got {usd:g} per {budget['per']}"
                yield document.problem((*place, index, "usd"), message)
                break


def _usd(budget: Mapping) -> float | None:
    return number(budget.get("usd")) if budget.get("per") in _PERIODS else None
