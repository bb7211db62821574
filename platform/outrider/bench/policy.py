"""What a policy's size costs: reading it, and finding a request's tenant and route in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import yaml

from outrider.bench.report import Report, Table
from outrider.bench.setup import surroundings
from outrider.bench.spread import Say, Spread, take_turns
from outrider.policy import KEY_PREFIX, Policy, Source, effective_route, hash_key, parse_policies

__all__ = ["composed", "measure_policy"]

_LOOKUPS = 5_000
_TAGS = ("prose",)


def measure_policy(*, tenants: Sequence[int], teams: int, repetitions: int, say: Say) -> Report:
    """Time to load policies of so many tenants spread over `teams` files, and to find one tenant's route in each."""
    documents = {str(count): composed(count, teams) for count in tenants}
    loading = take_turns({name: partial(_load_s, each) for name, each in documents.items()}, repetitions, say)
    policies = {name: _policy(each) for name, each in documents.items()}
    finding = take_turns({name: partial(_find_s, each) for name, each in policies.items()}, repetitions, say)
    table = Table("Policies by size", ("tenants", "files", "text KiB", "load ms", "key, tenant and route µs"))
    for name, sources in documents.items():
        size = sum(len(source.text) for source in sources) / 1024
        load, find = ([value * scale for value in found[name]] for found, scale in ((loading, 1e3), (finding, 1e6)))
        table.add(len(policies[name].tenants), len(sources), round(size), Spread.of(load), Spread.of(find))
    notes = [
        "Every tenant has two keys with days, two budgets and a rate; ten routes are the platform's, two each team's.",
        "Loading parses, checks and compiles all documents. Sizes take turns within one run.",
    ]
    return Report("policy", surroundings(), {"repetitions": repetitions, "teams": teams}, [table], notes)


def composed(tenants: int, teams: int) -> list[Source]:
    """A platform's document and those of `teams` teams, with `tenants` tenants in equal parts."""
    parts = {team: range(team, tenants, teams + 1) for team in range(teams + 1)}
    names = [f"team-{team}" for team in range(1, teams + 1)]
    routes = [{"name": f"tag-{index}", "match": {"tags": [f"tag-{index}"]}, "quality": 0.1} for index in range(10)]
    platform = {
        "version": 1,
        "models": {name: _model() for name in ("flash", "pro")},
        "batch_classes": {"balanced": {}},
        "tiers": {"standard": {"ttft_ms": 500, "tpot_ms": 50, "batch_class": "balanced"}},
        "teams": {name: {"models": ["flash", "pro"], "tiers": ["standard"]} for name in names},
        "tenants": {f"tenant-{index}": _tenant(index) for index in parts[0]},
        "routes": routes,
    }
    files = [
        {
            "version": 1,
            "team": f"team-{team}",
            "tenants": {f"tenant-{index}": _tenant(index) for index in parts[team]},
            "routes": [
                {"name": "nightly", "match": {"workflows": ["nightly/*"]}, "objective": "cheapest"},
                {"name": "prose", "match": {"tags": ["prose"]}, "objective": "best_quality"},
            ],
        }
        for team in range(1, teams + 1)
    ]
    return [
        Source(f"document-{index}", yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))
        for index, document in enumerate((platform, *files))
    ]


def _model() -> dict[str, object]:
    return {"price_usd_per_million": {"input": 0.05, "cached_input": 0.01, "output": 0.2}, "quality": {"default": 0.5}}


def _tenant(index: int) -> dict[str, object]:
    keys = [{"name": name, "sha256": hash_key(_key(index, name)), "expires": "2099-12-31"} for name in ("old", "new")]
    budgets = [{"usd": 5, "per": "day"}, {"usd": 50, "per": "month", "time_zone": "Europe/Berlin"}]
    return {"keys": keys, "tier": "standard", "models": ["flash", "pro"], "requests_per_minute": 60, "budgets": budgets}


def _key(index: int, name: str) -> str:
    return f"{KEY_PREFIX}bench-{index}-{name}"


def _policy(sources: Sequence[Source]) -> Policy:
    policy = parse_policies(sources[0], sources[1:]).policy
    assert policy is not None
    return policy


def _load_s(sources: Sequence[Source]) -> float:
    return _timed(lambda: parse_policies(sources[0], sources[1:], now_s=time.time()))


def _find_s(policy: Policy) -> float:
    """Per request: hash its key, find the tenant, fold its routes. The last tenant, whose team is the last."""
    key = _key(len(policy.tenants) - 1, "new")

    def find() -> None:
        for _ in range(_LOOKUPS):
            effective_route(policy.tenant_for_key(key, 0.0), 100, _TAGS, None)

    return _timed(find) / _LOOKUPS


def _timed(run: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s
