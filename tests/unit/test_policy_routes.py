"""Routes: the first that matches in each layer, the platform's bounds and the team's choice within them."""

from __future__ import annotations

import pytest

from outrider.policy import EffectiveRoute, Route, Tenant, Tier, effective_route

TIER = Tier("standard", None, None, (), 7)


def tenant(*layers: tuple[Route, ...]) -> Tenant:
    return Tenant("acme", TIER, ("flash", "pro"), 5, None, "balanced", routes=layers)


def test_without_routes_the_tenants_own_settings_hold() -> None:
    expected = EffectiveRoute("balanced", None, ("flash", "pro"), 5)
    assert effective_route(tenant(), 10) == expected
    assert effective_route(tenant((), ()), 10, ("code",), "w") == expected
    assert effective_route(tenant((Route("code", tags=frozenset({"code"})),)), 10) == expected


def test_the_first_route_that_matches_counts() -> None:
    routes = (
        Route("long", min_prompt_tokens=100, objective="cheapest"),
        Route("code", tags=frozenset({"code", "tests"}), objective="best_quality", max_depth=1),
        Route("rest", objective="fastest", models=frozenset({"flash"})),
    )
    asked = tenant(routes)
    assert effective_route(asked, 100, ("code",)) == EffectiveRoute(
        "cheapest", None, ("flash", "pro"), 5, ("platform/long",)
    )
    assert effective_route(asked, 99, ("x", "tests")).names == ("platform/code",)
    assert effective_route(asked, 99, ("x",)) == EffectiveRoute("fastest", None, ("flash",), 5, ("platform/rest",))


@pytest.mark.parametrize(
    ("workflow", "taken"),
    [("nightly/7", True), ("nightly", False), ("review", True), ("review/1", False), (None, False)],
)
def test_workflows_match_whole_or_by_what_stands_before_the_star(workflow: str | None, taken: bool) -> None:
    asked = tenant((Route("jobs", workflows=("nightly/*", "review")),))
    assert bool(effective_route(asked, 1, (), workflow).names) == taken


def test_prompt_lengths_include_both_ends() -> None:
    asked = tenant((Route("middle", min_prompt_tokens=10, max_prompt_tokens=20),))
    assert [bool(effective_route(asked, tokens).names) for tokens in (9, 10, 20, 21)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("platform", "team", "expected"),
    [
        (
            Route("p", objective="cheapest", quality=0.5, max_depth=3),
            Route("t", "search", objective="fastest", quality=0.4, max_depth=7),
            EffectiveRoute("fastest", 0.5, ("flash", "pro"), 3, ("platform/p", "search/t")),
        ),
        (
            Route("p", objective="cheapest", quality=0.5),
            Route("t", "search", quality=0.8, models=frozenset({"pro"}), max_depth=2),
            EffectiveRoute("cheapest", 0.8, ("pro",), 2, ("platform/p", "search/t")),
        ),
        (
            Route("p", models=frozenset({"flash"})),
            Route("t", "search", models=frozenset({"pro"})),
            EffectiveRoute("balanced", None, (), 5, ("platform/p", "search/t")),
        ),
    ],
    ids=["the platform's bounds hold", "the team tightens", "nothing is left"],
)
def test_a_team_chooses_within_the_platforms_bounds(platform: Route, team: Route, expected: EffectiveRoute) -> None:
    assert effective_route(tenant((platform,), (team,)), 10) == expected
