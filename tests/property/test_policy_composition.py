"""Composition never grants more than the platform; versions do not depend on order; a diff misses no change."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from outrider.policy import Policy, Source, Team, Tenant, diff, effective_route, parse_policies
from outrider.policy.compile import compile_policy
from outrider.policy.schema import PolicySpec, TeamFileSpec
from support.policies import compiled, key, platform, report, team

PERIODS = ("hour", "day", "week", "month")
RATES = ("requests_per_minute", "tokens_per_minute", "concurrency")

Documents = tuple[dict[str, Any], list[dict[str, Any]]]


MODELS, TIERS = ("flash", "pro"), ("fast", "standard", "bulk")


def names(known: tuple[str, ...] | list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(known), min_size=1, unique=True)


def limits(grant: dict[str, Any], most: int) -> dict[str, st.SearchStrategy[Any]]:
    """Bounds of a team or tenant: each up to that of the grant, or up to `most` where it has none."""
    money = {each["per"]: each["usd"] for each in grant.get("budgets", [])}
    caps = {
        per: min([usd for other, usd in money.items() if PERIODS.index(other) >= PERIODS.index(per)], default=most)
        for per in PERIODS
    }
    spans = st.lists(st.sampled_from(PERIODS), max_size=2, unique=True)
    budgets = spans.flatmap(
        lambda chosen: st.tuples(
            *(st.builds(dict, usd=st.integers(1, caps[per]), per=st.just(per)) for per in chosen)
        ).map(list)
    )
    bounds = {name: st.integers(1, grant.get(name, most)) for name in (*RATES, "max_cost_usd_per_request", "max_depth")}
    return {**bounds, "budgets": budgets}


@st.composite
def compositions(draw: st.DrawFn) -> Documents:
    """A platform with two granted teams, and their files: half of them within what is granted, half wherever."""
    first = platform()
    grant = st.fixed_dictionaries(
        {"models": names(MODELS), "tiers": names(TIERS)}, optional={**limits({}, 6), "max_tenants": st.integers(1, 3)}
    )
    first["teams"] = {name: draw(grant) for name in ("search", "ads")}
    chosen = {"objective": st.sampled_from(["cheapest", "fastest"]), "quality": st.sampled_from([0.3, 0.5])}
    bound = draw(st.fixed_dictionaries({}, optional={**chosen, "max_depth": st.integers(0, 6)}))
    first["routes"] = [{"name": "all", **bound}]
    return first, [_file(draw, name, first["teams"][name], chosen) for name in ("search", "ads")]


@st.composite
def grants_in_full(draw: st.DrawFn) -> dict[str, Any]:
    """A grant that bounds everything a tenant may have, by one budget: of two, the longer may be the smaller."""
    bounds = limits({}, 6)
    bounds["budgets"] = st.builds(dict, usd=st.integers(1, 6), per=st.sampled_from(PERIODS)).map(lambda each: [each])
    return draw(st.fixed_dictionaries({"models": names(MODELS), "tiers": names(TIERS), **bounds}))


def _file(draw: st.DrawFn, name: str, grant: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    within = draw(st.booleans())
    models, tiers = (grant["models"], grant["tiers"]) if within else (MODELS, TIERS)
    bounds = limits(grant if within else {}, 7)
    terms = st.fixed_dictionaries({"tier": st.sampled_from(tiers), "models": names(models)}, optional=bounds)
    who = st.sampled_from(["a", "b", "c"] if within else ["acme", "a", "b", "c"])
    most = min(3, grant.get("max_tenants", 3)) if within else 3
    file: dict[str, Any] = {"version": 1, "team": name, "tenants": {}}
    for each in draw(st.lists(who, min_size=1, max_size=most, unique=True)):
        own_key = f"{name}/{each}"
        holder = own_key if within else draw(st.sampled_from([own_key, "acme/ci", "ann"]))
        file["tenants"][each if each == "acme" else f"{name}-{each}"] = {**draw(terms), "keys": [key(holder)]}
    own = st.fixed_dictionaries({}, optional={**chosen, "max_depth": bounds["max_depth"]})
    file["routes"] = [{"name": "own", "match": {"tags": ["x"]}, **draw(own)}]
    return file


def excesses(policy: Policy, first: dict[str, Any], files: list[dict[str, Any]]) -> list[str]:
    """Everything in which a composed policy gives a team more than its grant, judged from the documents alone."""
    found = []
    for file in files:
        grant, own = first["teams"][file["team"]], file["tenants"]
        team_ = policy.teams[file["team"]]
        if len(own) > grant.get("max_tenants", 9):
            found.append("tenants")
        for name in own:
            tenant = policy.tenants[name]
            if name in first["tenants"] or tenant.team != file["team"]:
                found.append(f"{name} belongs to another")
            if not set(tenant.models) <= set(grant["models"]) or tenant.tier.name not in grant["tiers"]:
                found.append(f"{name}: models or tier")
            if tenant.max_depth > grant.get("max_depth", 99) or _dearer(tenant, team_):
                found.append(f"{name}: depth or cost")
            found += [f"{name}: {rate}" for rate in RATES if (own[name].get(rate) or 0) > grant.get(rate, 99)]
            found += _overspends(tenant, grant)
            found += _escapes(tenant, policy, grant)
    owners = [
        each["sha256"] for layer in (first, *files) for tenant in layer["tenants"].values() for each in tenant["keys"]
    ]
    owners += [each["sha256"] for each in first["operators"]]
    if len(set(owners)) < len(owners):
        found.append("a key opens two doors")
    return found


def _dearer(tenant: Tenant, team_: Team) -> bool:
    most = team_.max_cost_usd_per_request
    return most is not None and (tenant.max_cost_usd_per_request is None or tenant.max_cost_usd_per_request > most)


def _overspends(tenant: Tenant, grant: dict[str, Any]) -> list[str]:
    return [
        f"{tenant.name}: {mine.limit_usd} per {mine.period}"
        for mine in tenant.limits.budgets
        for theirs in grant.get("budgets", [])
        if PERIODS.index(theirs["per"]) >= PERIODS.index(mine.period) and mine.limit_usd > theirs["usd"]
    ]


def _escapes(tenant: Tenant, policy: Policy, grant: dict[str, Any]) -> list[str]:
    """Requests whose routes allow more than the platform's route or the grant."""
    bound = tenant.routes[0][0]
    found = []
    for tags in ((), ("x",)):
        taken = effective_route(tenant, 10, tags)
        floor = taken.quality or 0.0
        if not set(taken.models) <= set(grant["models"]) or floor < (bound.quality or 0.0):
            found.append(f"{tenant.name}: a route's models or quality")
        if taken.max_depth > min(
            tenant.max_depth, grant.get("max_depth", 99), 99 if bound.max_depth is None else bound.max_depth
        ):
            found.append(f"{tenant.name}: a route's depth")
    return found


def unchecked(first: dict[str, Any], files: list[dict[str, Any]]) -> Policy:
    """The composer with its checks left out."""
    return compile_policy(PolicySpec.model_validate(first), [TeamFileSpec.model_validate(file) for file in files])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(compositions())
def test_no_team_gets_more_than_the_platform_grants(documents: Documents) -> None:
    first, files = documents
    found = report(first, *files)
    assert (found.policy is None) == bool(found.problems)
    if found.policy is not None:
        assert excesses(found.policy, first, files) == []


def test_a_composer_without_checks_is_caught() -> None:
    beyond = find(
        compositions(),
        lambda documents: bool(excesses(unchecked(*documents), *documents)),
        settings=settings(max_examples=2000, derandomize=True, database=None, phases=[Phase.generate]),
    )
    assert report(beyond[0], *beyond[1]).policy is None


@settings(max_examples=60, deadline=None)
@given(st.lists(grants_in_full(), min_size=1, max_size=2))
def test_a_tenant_may_have_all_of_its_teams_grant(grants: list[dict[str, Any]]) -> None:
    """Else the property above would say nothing: a composer that refuses everything grants too much to nobody."""
    teams = dict(zip(("search", "ads"), grants, strict=False))
    first = {**platform(), "teams": teams}
    files = [
        {"version": 1, "team": name, "tenants": {f"{name}-a": {**_all_of(grant), "keys": [key(f"{name}/a")]}}}
        for name, grant in teams.items()
    ]
    assert report(first, *files).problems == ()


def _all_of(grant: dict[str, Any]) -> dict[str, Any]:
    return {"tier": grant["tiers"][0], **{name: grant[name] for name in grant if name != "tiers"}}


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same mappings with their fields in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {name: shuffled(each, rng) for name, each in items}
    return [shuffled(each, rng) for each in value] if isinstance(value, list) else value


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_a_version_does_not_depend_on_order(seed: int) -> None:
    rng = random.Random(seed)
    first, search = platform(), team()
    first["teams"]["ads"] = {"models": ["pro"], "tiers": ["fast"]}
    ads = {"version": 1, "team": "ads", "tenants": {"ad": {"keys": [], "tier": "fast", "models": ["pro"]}}}
    files = [search, ads]
    expected = compiled(first, *files)
    rng.shuffle(files)
    found = compiled(shuffled(first, rng), *(shuffled(file, rng) for file in files))
    assert found.version == expected.version
    assert diff(found, expected) == ()
    search["tenants"]["index"]["concurrency"] = 5
    assert compiled(first, *files).version != expected.version


def put(*path: str | int) -> Callable[[dict[str, Any], Any], None]:
    """Sets what stands at a path of a document."""

    def change(document: dict[str, Any], value: Any) -> None:
        parent: Any = document
        for step in path[:-1]:
            parent = parent.setdefault(step, {}) if isinstance(parent, dict) else parent[step]
        parent[path[-1]] = value

    return change


# Path in the platform's document, another value, and the change that must be among those said.
LEAVES: list[tuple[tuple[str | int, ...], Any, tuple[str, str]]] = [
    (("models", "flash", "price_usd_per_million", "input"), 2, ("model", "input_usd_per_million")),
    (("models", "flash", "price_usd_per_million", "cached_input"), 0.7, ("model", "cached_input_usd_per_million")),
    (("models", "pro", "price_usd_per_million", "output"), 21, ("model", "output_usd_per_million")),
    (("models", "pro", "quality", "default"), 0.71, ("model", "quality.default")),
    (("models", "pro", "quality", "maths"), 0.1, ("model", "quality.maths")),
    (("batch_classes", "quick", "weight"), 3, ("batch class", "weight")),
    (("batch_classes", "quick", "prefill_share"), 0.1, ("batch class", "prefill_share")),
    (("batch_classes", "quick", "co_batch_tokens"), 64, ("batch class", "co_batch_tokens")),
    (("batch_classes", "full", "admission_wait_ms"), 10, ("batch class", "admission_wait_ms")),
    (("batch_classes", "full", "preemption_order"), 4, ("batch class", "preemption_order")),
    (("tiers", "standard", "ttft_ms"), 1000, ("tier", "ttft_s")),
    (("tiers", "standard", "tpot_ms"), 81, ("tier", "tpot_s")),
    (("tiers", "fast", "deadline_ms"), 9000, ("tier", "deadline_s")),
    (("tiers", "fast", "priority"), 81, ("tier", "priority")),
    (("tiers", "fast", "min_depth"), 1, ("tier", "min_depth")),
    (("tiers", "fast", "max_depth"), 5, ("tier", "max_depth")),
    (("tiers", "fast", "degrade"), ["quality"], ("tier", "degrade")),
    (("tiers", "fast", "also_batch_classes"), ["full"], ("tier", "batch_classes")),
    (("tiers", "bulk", "objective"), "cheapest", ("tenant", "objective")),
    (("teams", "search", "max_tenants"), 4, ("team", "max_tenants")),
    (("teams", "search", "max_depth"), 6, ("team", "max_depth")),
    (("teams", "search", "max_cost_usd_per_request"), 3, ("team", "max_cost_usd_per_request")),
    (("teams", "search", "requests_per_minute"), 601, ("team", "requests_per_minute")),
    (("teams", "search", "tokens_per_minute"), 100_001, ("team", "tokens_per_minute")),
    (("teams", "search", "concurrency"), 21, ("team", "concurrency")),
    (("teams", "search", "budgets", 0, "usd"), 101, ("team", "budgets.day")),
    (("teams", "search", "budgets", 1, "time_zone"), "UTC", ("team", "budgets.month.time_zone")),
    (("teams", "search", "tiers"), ["standard", "bulk", "fast"], ("team", "tiers.fast")),
    (("tenants", "acme", "tier"), "bulk", ("tenant", "tier")),
    (("tenants", "acme", "models"), ["pro"], ("tenant", "models.flash")),
    (("tenants", "acme", "max_depth"), 2, ("tenant", "max_depth")),
    (("tenants", "acme", "max_cost_usd_per_request"), 1, ("tenant", "max_cost_usd_per_request")),
    (("tenants", "acme", "objective"), "fastest", ("tenant", "objective")),
    (("tenants", "acme", "cache"), "shared", ("tenant", "cache")),
    (("tenants", "acme", "requests_per_minute"), 7, ("tenant", "requests_per_minute")),
    (("tenants", "acme", "tokens_per_minute"), 7, ("tenant", "tokens_per_minute")),
    (("tenants", "acme", "concurrency"), 7, ("tenant", "concurrency")),
    (("tenants", "acme", "budgets", 0, "usd"), 99, ("tenant", "budgets.month")),
    (("tenants", "acme", "keys"), [], ("tenant", "keys.ci")),
    (("routes", 0, "match", "tags"), ["code", "maths"], ("route", "route")),
    (("routes", 0, "quality"), 0.61, ("route", "route")),
    (("routes", 1, "match", "prompt_tokens", "min"), 999, ("route", "route")),
    (("operators",), [key("ben")], ("operator", "keys.ben")),
    (("admission", "max_waiting"), 99, ("platform", "max_waiting")),
    (("admission", "max_wait_ms"), 99, ("platform", "max_wait_ms")),
    (("admission", "ageing_per_s"), 99, ("platform", "ageing_per_s")),
    (("admission", "reserve_quantile"), 0.8, ("platform", "reserve_quantile")),
    (("cache", "ttl_s"), 99, ("platform", "ttl_s")),
    (("cache", "max_entries"), 99, ("platform", "max_entries")),
    (("cache", "max_bytes"), 9999, ("platform", "max_bytes")),
    (("cache", "price_share"), 0.2, ("platform", "price_share")),
    (("routing", "depth_caps"), [0, 1, 2, 3, 5, 7], ("platform", "depth_caps")),
    (("routing", "expected_output_tokens"), 99, ("platform", "expected_output_tokens")),
    (("routing", "staleness_per_s"), 0.5, ("platform", "staleness_per_s")),
    (("routing", "verification"), "rejection", ("platform", "verification")),
    (("routing", "balance"), {"latency": 2, "cost": 2, "quality": 3}, ("platform", "balance.cost")),
    (("routing", "quantile"), 0.8, ("platform", "quantile")),
    (("routing", "exploration"), 0.1, ("platform", "exploration")),
]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(LEAVES), min_size=1, max_size=12, unique_by=lambda leaf: leaf[0]))
def test_a_diff_mentions_every_change(leaves: list[tuple[tuple[str | int, ...], Any, tuple[str, str]]]) -> None:
    old = compiled(platform(), team())
    document = copy.deepcopy(platform())
    for path, value, _ in leaves:
        put(*path)(document, value)
    new = compiled(document, team())
    said = {(change.subject, change.what) for change in diff(old, new)}
    missing = [path for path, _, expected in leaves if expected not in said]
    moved = any(path == ("tenants", "acme", "tier") for path, _, _ in leaves)
    assert missing == [] or (moved and all(path[:2] == ("tiers", "bulk") for path in missing))
    assert diff(new, new) == ()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_text_of_a_team_gives_a_policy_or_problems(data: st.DataObject) -> None:
    text = json.dumps(team(), indent=1)
    at, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 8))
    text = text[:at] + data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=6)) + text[at + cut :]
    found = parse_policies(Source("platform", json.dumps(platform())), [Source("team", text)])
    assert (found.policy is None) == bool(found.problems)
    assert all(len(str(problem).splitlines()) == 1 for problem in (*found.problems, *found.warnings))
