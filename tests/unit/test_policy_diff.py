"""Differences said as consequences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from outrider.policy import Change, diff, sentences
from support.policies import compiled, key, platform, team

Edit = Callable[[dict[str, Any], dict[str, Any]], object]


def changes(edit: Edit) -> tuple[Change, ...]:
    first, other = platform(), team()
    old = compiled(first, other)
    first, other = copy.deepcopy(first), copy.deepcopy(other)
    edit(first, other)
    return diff(old, compiled(first, other))


def acme(first: dict[str, Any], **settings: Any) -> None:
    first["tenants"]["acme"].update(settings)


CASES: list[tuple[Edit, list[str], list[str]]] = [
    (
        lambda p, t: (acme(p, models=["flash"]), p["tiers"]["fast"].update(tpot_ms=50)),
        [
            "tenant acme: loses model pro",
            "tier fast: its TPOT target rises 30 → 50 ms (tenant acme)",
        ],
        ["tightens", "loosens"],
    ),
    (
        lambda p, t: acme(p, tier="standard"),
        [
            "tenant acme: its tier goes fast → standard; its TTFT target rises 500 → 2000 ms; "
            "its TPOT target rises 30 → 80 ms; its priority falls 80 → 50; its batch class goes quick → quick, full"
        ],
        ["neutral", "loosens", "loosens", "tightens", "neutral"],
    ),
    (
        lambda p, t: acme(p, budgets=[{"usd": 50, "per": "month"}]),
        ["tenant acme: its budget per month falls $100 → $50"],
        ["tightens"],
    ),
    (lambda p, t: acme(p, budgets=[]), ["tenant acme: its budget per month goes $100 → no limit"], ["loosens"]),
    (
        lambda p, t: acme(p, keys=[key("acme/ci", expires="2027-01-31")]),
        ["tenant acme: its key ci expires 2027-01-31 (before: expires 2099-12-31)"],
        ["tightens"],
    ),
    (
        lambda p, t: acme(p, keys=[{**key("other"), "name": "ci"}]),
        ["tenant acme: has key ci replaced: the old one is refused, the new one never expires"],
        ["neutral"],
    ),
    (
        lambda p, t: acme(p, keys=[key("acme/ci", expires="2099-12-31"), key("acme/b", not_before="2030-01-01")]),
        ["tenant acme: gains key b, which begins 2030-01-01 and never expires"],
        ["loosens"],
    ),
    (lambda p, t: acme(p, keys=[]), ["tenant acme: loses key ci: whoever holds it is refused"], ["tightens"]),
    (lambda p, t: p.update(operators=[]), ["operator ann: loses key ann: whoever holds it is refused"], ["tightens"]),
    (
        lambda p, t: p["models"]["pro"]["price_usd_per_million"].update(output=24),
        ["model pro: its price of a million output tokens rises $20 → $24 (+20 %) (2 tenants (acme, site))"],
        ["tightens"],
    ),
    (
        lambda p, t: p["models"]["flash"]["quality"].update(code=0.85),
        ["model flash: its quality on code rises 0.8 → 0.85 (3 tenants (acme, index, site))"],
        ["neutral"],
    ),
    (
        lambda p, t: p["routes"][0].update(objective="cheapest"),
        [
            "route platform/code: now requests of acme, index, site tagged code: cheapest, quality 0.6 at least; "
            "before: requests of acme, index, site tagged code: quality 0.6 at least"
        ],
        ["neutral"],
    ),
    (
        lambda p, t: p["routes"].reverse(),
        ["route platform: order is now long, code; before: code, long (3 tenants (acme, index, site))"],
        ["neutral"],
    ),
    (
        lambda p, t: t["routes"].clear(),
        ["route search/nightly: no longer: requests of index, site of workflow nightly/*: cheapest"],
        ["neutral"],
    ),
    (
        lambda p, t: p["teams"]["search"].update(concurrency=30, models=["flash", "pro"], max_tenants=2),
        [
            "team search: its number of tenants falls 3 → 2 (2 tenants (index, site)); "
            "its concurrency rises 20 → 30 (2 tenants (index, site))"
        ],
        ["tightens", "loosens"],
    ),
    (
        lambda p, t: t["tenants"].pop("site"),
        ["tenant site: is gone: its keys are refused"],
        ["tightens"],
    ),
    (
        lambda p, t: p["tenants"].update(new={"keys": [], "tier": "bulk", "models": ["pro"], "concurrency": 2}),
        ["tenant new: is new: model pro, tier bulk, objective balanced, concurrency 2"],
        ["loosens"],
    ),
    (lambda p, t: p["tiers"].update(slow={"batch_class": "full"}), ["tier slow: is new: priority 50"], ["loosens"]),
    (
        lambda p, t: p["batch_classes"]["full"].update(weight=1),
        ["batch class full: its weight rises 0.5 → 1"],
        ["neutral"],
    ),
    (lambda p, t: p["cache"].update(enabled=False), ["cache: response cache goes on → off"], ["neutral"]),
    (
        lambda p, t: p["routing"].update(depth_caps=[0, 7]),
        ["routing: depths considered goes 0, 1, 3, 5, 7 → 0, 7"],
        ["neutral"],
    ),
    (
        lambda p, t: acme(p, max_depth=9),
        ["documents: the documents differ only in what has no effect"],
        ["neutral"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "said", "severities"), CASES)
def test_a_change_is_said_as_what_it_means(edit: Edit, said: list[str], severities: list[str]) -> None:
    found = changes(edit)
    lines = sentences(found)
    assert len(lines) == len(said), lines
    for part, line in zip(said, lines, strict=True):
        assert line.startswith(part)
    assert [change.severity for change in found][: len(severities)] == severities


def test_many_tenants_are_one_sentence() -> None:
    first = platform()
    for index in range(100):
        first["tenants"][f"t{index:02}"] = {"keys": [key(f"t{index}/k")], "tier": "bulk", "models": ["flash"]}
    old = compiled(first, team())
    for index in range(100):
        first["tenants"][f"t{index:02}"].update(
            models=["flash", "pro"], keys=[key(f"t{index}/k", expires="2030-06-30")]
        )
    new = compiled(first, team())
    assert sentences(diff(old, new)) == [
        "100 tenants (t00, t01, t02 and 97 more): gain model pro; "
        "their key k expires 2030-06-30 (before: never expires)"
    ]
    assert sentences(diff(new, old))[0].startswith(
        "100 tenants (t00, t01, t02 and 97 more): lose model pro; their key k"
    )


def test_nothing_changes_between_equal_policies() -> None:
    assert diff(compiled(platform(), team()), compiled(platform(), team())) == ()


def test_what_a_tenant_feels_of_its_tier_is_said_once() -> None:
    found = changes(lambda p, t: (p["tiers"]["bulk"].update(max_depth=2), t["tenants"]["site"].update(max_depth=3)))
    assert [(change.subject, change.names, change.what, change.before, change.after) for change in found] == [
        ("tenant", ("site",), "max_depth", 4, 3),
        ("tier", ("bulk",), "max_depth", 3, 2),
    ]
    assert found[1].tenants == ("index",)
