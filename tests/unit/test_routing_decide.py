"""Decisions for hand-made loads."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from outrider.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    ModelNotAllowed,
    ModelNotFound,
    NoFeasibleRoute,
    NotReady,
    OutriderError,
)
from outrider.policy import Policy, parse_policy
from outrider.routing import RouteQuery, as_record, decide, records
from outrider.types import Budgets, Decision, LoadSnapshot

POLICY = """\
version: 1
models:
  flash: {price_usd_per_million: {input: 1, output: 2}, quality: {default: 0.4, code: 0.2}}
  pro: {price_usd_per_million: {input: 10, output: 20}, quality: {default: 0.8, code: 0.7}}
  big: {price_usd_per_million: {input: 10, output: 20}, quality: {default: 0.9}}
batch_classes: {balanced: {}, quick: {co_batch_tokens: 64, weight: 4}}
tiers:
  standard: {batch_class: balanced, also_batch_classes: [quick], ttft_ms: 60000, tpot_ms: 60000}
  strict: {batch_class: quick, ttft_ms: 400, tpot_ms: 18}
  plain: {batch_class: balanced, max_depth: 0}
tenants:
  demo: {keys: [], tier: standard, models: [flash, pro]}
  strict: {keys: [], tier: strict, models: [flash, pro], objective: cheapest}
  plain: {keys: [], tier: plain, models: [flash]}
  capped: {keys: [], tier: standard, models: [flash, pro], max_depth: 4, max_cost_usd_per_request: 0.0004}
"""
CURVE = tuple((tokens, 0.010 + 0.0005 * tokens) for tokens in (1, 8, 64, 512))
TAU = (1.0, 1.6, 2.1, 2.4, 2.7, 2.9, 3.0, 3.1)


@pytest.fixture(scope="module")
def policy() -> Policy:
    found = parse_policy(POLICY).policy
    assert found is not None
    return found


def load(model: str, slowness: float = 1.0, **changes: Any) -> LoadSnapshot:
    snapshot = LoadSnapshot(
        model=model,
        replica=f"{model}-0",
        epoch=1,
        time_s=100.0,
        step_curve=tuple((tokens, seconds * slowness) for tokens, seconds in CURVE),
        draft_s=0.002 * slowness,
        acceptance_tokens=TAU,
        drafter_ready=True,
        context_tokens=1000,
        max_running_requests=16,
    )
    return dataclasses.replace(snapshot, **changes)


BOTH: dict[str, LoadSnapshot | None] = {"flash": load("flash"), "pro": load("pro", 3.0)}


def ask(
    policy: Policy,
    tenant: str = "demo",
    snapshots: dict[str, LoadSnapshot | None] | None = None,
    now_s: float = 100.0,
    objective: str | None = None,
    **query: Any,
) -> Decision:
    who = policy.tenants[tenant]
    if objective is not None:
        who = dataclasses.replace(who, objective=objective)  # type: ignore[arg-type]
    asked = {"model": "auto", "prompt_tokens": {"flash": 100, "pro": 100}, "max_tokens": 100} | query
    loads = {name: [] if load is None else [load] for name, load in (snapshots or BOTH).items()}
    return decide(RouteQuery(tenant=who, **asked), loads, policy, now_s=now_s, decision_id="id")


@pytest.mark.parametrize(
    ("objective", "model"),
    [("cheapest", "flash"), ("fastest", "flash"), ("best_quality", "pro"), ("balanced", "flash")],
)
def test_each_objective_on_idle_replicas(policy: Policy, objective: str, model: str) -> None:
    assert ask(policy, objective=objective).model == model


def test_fastest_moves_to_the_other_model_when_the_first_is_loaded(policy: Policy) -> None:
    loaded = BOTH | {"flash": load("flash", queued_requests=40, queued_tokens=8000, running_requests=16)}
    assert ask(policy, objective="fastest", snapshots=loaded).model == "pro"
    assert ask(policy, objective="cheapest", snapshots=loaded).model == "flash"


def test_targets_of_the_tier_come_before_the_objective_and_refuse_nobody(policy: Policy) -> None:
    loaded = BOTH | {"flash": load("flash", 20.0), "pro": load("pro", 0.5)}
    assert ask(policy, tenant="strict", snapshots=loaded).model == "pro"
    hopeless: dict[str, LoadSnapshot | None] = {"flash": load("flash", 50.0), "pro": load("pro", 100.0)}
    decision = ask(policy, tenant="strict", snapshots=hopeless)
    assert decision.model == "flash"
    assert any("no candidate keeps the targets" in reason for reason in decision.reasons)


def test_depth_follows_drafter_policy_and_load(policy: Policy) -> None:
    assert ask(policy, model="flash").depth_cap > 0
    without = ask(policy, model="flash", snapshots={"flash": load("flash", drafter_ready=False)})
    assert without.depth_cap == 0
    assert {record["depth_cap"] for record in records(without.candidates)} == {0}
    assert any("no drafter is attached" in reason for reason in without.reasons)
    assert ask(policy, tenant="plain").depth_cap == 0
    doubtful = load("flash", running_requests=15, acceptance_tokens=(1.0, 1.1, 1.15))
    assert ask(policy, model="flash", snapshots={"flash": doubtful}).depth_cap == 7, "the engine trims, and may"
    hopeless = load("flash", draft_s=0.5, acceptance_tokens=(1.0, 1.01, 1.01))
    decision = ask(policy, model="flash", snapshots={"flash": hopeless})
    assert decision.depth_cap == 0
    assert any("cost more than it gives" in reason for reason in decision.reasons)


def test_depth_candidates_end_at_the_tenants_bound(policy: Policy) -> None:
    decision = ask(policy, tenant="capped")
    depths = {record["depth_cap"] for record in records(decision.candidates) if record["model"] == "flash"}
    assert depths == {0, 1, 3, 4}


def test_an_explicit_model_is_obeyed(policy: Policy) -> None:
    decision = ask(policy, model="pro", objective="cheapest")
    assert {record["model"] for record in records(decision.candidates)} == {"pro"}
    assert decision.reasons[0].startswith("pro was asked for")


def test_quality_floor_uses_the_domain_of_the_tag(policy: Policy) -> None:
    assert ask(policy, budgets=Budgets(quality=0.3)).model == "flash"
    assert ask(policy, budgets=Budgets(quality=0.3), tags=("team-a", "code")).model == "pro"
    with pytest.raises(NoFeasibleRoute, match=r"pro has quality 0\.8, below 0\.9"):
        ask(policy, budgets=Budgets(quality=0.9))


def test_money_limits_the_answer(policy: Policy) -> None:
    decision = ask(policy, model="flash", budgets=Budgets(max_cost_usd=0.00015))
    assert (decision.max_tokens, decision.limited_by_cost) == (25, True)
    assert decision.predicted_cost_usd == pytest.approx(0.00015)
    exact = ask(policy, model="flash", budgets=Budgets(max_cost_usd=0.0003))
    assert (exact.max_tokens, exact.limited_by_cost) == (100, False)


def test_the_tenants_own_money_limit_counts_too(policy: Policy) -> None:
    assert ask(policy, tenant="capped").max_tokens == 100
    with pytest.raises(BudgetExhausted, match=r"pro needs \$0\.00102000") as refusal:
        ask(policy, tenant="capped", model="pro")
    assert refusal.value.param == "max_cost_usd"
    assert ask(policy, tenant="capped", objective="best_quality").model == "flash"


def test_without_max_tokens_the_context_is_the_limit(policy: Policy) -> None:
    decision = ask(policy, model="flash", max_tokens=None)
    assert (decision.max_tokens, decision.limited_by_cost) == (900, False)
    assert decision.predicted_cost_usd == pytest.approx((100 + 128 * 2) / 1e6)


def test_a_request_limit_drops_candidates_and_says_which(policy: Policy) -> None:
    decision = ask(policy, model="flash", budgets=Budgets(tpot_s=0.0095))
    assert decision.predicted_tpot_s <= 0.0095
    assert decision.tpot_target_s == 0.0095
    found = records(decision.candidates)
    dropped = [record for record in found if not record["feasible"]]
    assert dropped
    assert all(record["why_not"] == "breaks tpot_ms" for record in dropped)
    assert all(record["feasible"] for record in found[: -len(dropped)])


def test_a_deadline_outranks_the_objective(policy: Policy) -> None:
    loads = BOTH | {"flash": load("flash", queued_tokens=20_000, queued_requests=20)}
    assert ask(policy, objective="cheapest", snapshots=loads).model == "flash"
    assert ask(policy, objective="cheapest", snapshots=loads, budgets=Budgets(deadline_s=8.0)).model == "pro"


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"model": "nope"}, ModelNotFound, "yours are auto, flash, pro"),
        ({"model": "big"}, ModelNotAllowed, "'big' is not granted to you; yours are flash, pro"),
        ({"max_tokens": 901}, ContextLengthExceeded, "exceed the 1000 of flash"),
        ({"prompt_tokens": {"flash": 1000, "pro": 1000}, "max_tokens": None}, ContextLengthExceeded, "1000 prompt"),
        ({"budgets": Budgets(max_cost_usd=1e-9)}, BudgetExhausted, "for the prompt and one token"),
        ({"budgets": Budgets(ttft_s=1e-6)}, NoFeasibleRoute, r"ttft_ms 0.001 \(best now"),
        ({"budgets": Budgets(tpot_s=1e-6)}, NoFeasibleRoute, r"tpot_ms 0.001 \(best now"),
        ({"budgets": Budgets(deadline_s=1e-6)}, NoFeasibleRoute, r"deadline_ms 0.001 \(best now"),
        ({"snapshots": {"flash": None, "pro": None}}, NotReady, "no healthy replica of flash"),
        ({"snapshots": {"flash": None}, "model": "pro"}, NotReady, "no healthy replica of pro"),
        ({"snapshots": {"flash": load("flash", step_curve=())}, "model": "flash"}, NotReady, "step costs"),
        ({"snapshots": {"pro": load("pro")}, "budgets": Budgets(max_cost_usd=1e-5)}, NotReady, "flash"),
    ],
)
def test_refusals(policy: Policy, changes: dict[str, Any], kind: type[OutriderError], text: str) -> None:
    with pytest.raises(kind, match=text) as refusal:
        ask(policy, **changes)
    assert type(refusal.value) is kind


def test_limits_that_only_clash_together_are_all_named(policy: Policy) -> None:
    """Flash has a queue and fast rounds, Pro neither."""
    loads = BOTH | {"flash": load("flash", queued_tokens=5000, queued_requests=5)}
    limits = Budgets(ttft_s=0.5, tpot_s=0.010)
    assert ask(policy, snapshots=loads, budgets=Budgets(ttft_s=limits.ttft_s)).model == "pro"
    assert ask(policy, snapshots=loads, budgets=Budgets(tpot_s=limits.tpot_s)).model == "flash"
    with pytest.raises(NoFeasibleRoute, match=r"all at once ttft_ms .* and tpot_ms") as refusal:
        ask(policy, snapshots=loads, budgets=limits)
    assert refusal.value.param is None


def test_a_retry_time_is_given_only_when_load_is_in_the_way(policy: Policy) -> None:
    with pytest.raises(NoFeasibleRoute, match="waiting will not help") as idle:
        ask(policy, budgets=Budgets(ttft_s=0.001))
    assert idle.value.retry_after_s is None
    busy: dict[str, LoadSnapshot | None] = {"flash": load("flash", queued_tokens=9000, queued_requests=9)}
    with pytest.raises(NoFeasibleRoute) as refusal:
        ask(policy, model="flash", budgets=Budgets(ttft_s=0.5), snapshots=busy)
    assert refusal.value.retry_after_s is not None
    assert 0.1 <= refusal.value.retry_after_s <= 30


def test_age_widens_predictions_and_never_stops_dispatch(policy: Policy) -> None:
    fresh, stale = ask(policy, model="flash"), ask(policy, model="flash", now_s=104.0)
    assert stale.predicted_ttft_s == fresh.predicted_ttft_s
    assert stale.quantile_ttft_s == pytest.approx(2 * fresh.quantile_ttft_s)
    assert stale.quantile_tpot_s == pytest.approx(2 * fresh.quantile_tpot_s)
    assert (fresh.stale, stale.stale) == (False, True)
    assert any("4.0 s old" in reason for reason in stale.reasons)
    assert ask(policy, model="flash", now_s=90.0).quantile_ttft_s == fresh.quantile_ttft_s
    tight = Budgets(ttft_s=fresh.predicted_ttft_s * 1.1)
    assert ask(policy, model="flash", now_s=104.0, budgets=tight).model == "flash"


def test_a_fresh_report_beats_a_stale_one_under_a_hard_limit(policy: Policy) -> None:
    loads: dict[str, LoadSnapshot | None] = {"flash": load("flash", time_s=90.0), "pro": load("pro")}
    limit = Budgets(ttft_s=ask(policy, model="pro", snapshots=loads).predicted_ttft_s * 1.1)
    assert ask(policy, objective="cheapest", snapshots=loads).model == "flash"
    assert ask(policy, objective="cheapest", snapshots=loads, budgets=limit).model == "pro"


def test_the_decision_says_what_was_decided_and_can_be_stored(policy: Policy) -> None:
    decision = ask(policy, snapshots=BOTH | {"pro": None})
    winner, *_, closed = records(decision.candidates)
    assert winner["model"] == decision.model
    assert winner["depth_cap"] == decision.depth_cap
    assert winner["batch_class"] == decision.batch_class.name
    assert winner["ttft_s"] == pytest.approx(decision.predicted_ttft_s)
    assert closed == {
        **dict.fromkeys(winner),
        "model": "pro",
        "feasible": False,
        "why_not": "no healthy replica of pro is known",
    }
    assert decision.policy_version == policy.version
    assert json.loads(json.dumps(as_record(decision)))["decision_id"] == "id"
    assert decision == ask(policy, snapshots=BOTH | {"pro": None})
