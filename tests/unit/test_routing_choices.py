"""Several answers to one request, what they cost and how long they take; and replicas that hold some of its prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from outrider.errors import BudgetExhausted, ContextLengthExceeded
from outrider.policy import Policy, parse_policy
from outrider.routing import RouteQuery, decide
from outrider.types import Budgets, Decision, LoadSnapshot

POLICY = """
version: 1
models: {flash: {price_usd_per_million: {input: 1.0, output: 10.0}, quality: {default: 0.5}}}
batch_classes: {balanced: {}}
tiers: {standard: {batch_class: balanced, max_depth: 0}}
tenants: {acme: {keys: [], tier: standard, models: [flash]}}
"""
LOAD = LoadSnapshot(
    "flash", "r", 1, 0.0, step_curve=((1, 0.004), (64, 0.1)), context_tokens=512, max_running_requests=16
)


def decided(prompt: int = 100, max_tokens: int | None = 50, **asked: object) -> Decision:
    policy = parse_policy(POLICY).policy
    assert isinstance(policy, Policy)
    query = RouteQuery(policy.tenants["acme"], "flash", {"flash": prompt}, max_tokens, **asked)  # type: ignore[arg-type]
    return decide(query, {"flash": [LOAD]}, policy, now_s=0.0, decision_id="id")


def test_the_prompt_is_paid_once_and_every_answer_for_itself() -> None:
    assert decided(choices=4).predicted_cost_usd == pytest.approx(100e-6 + 4 * 50e-5)
    assert decided(choices=4, batch_tokens={"flash": 150}).predicted_cost_usd == pytest.approx(150e-6 + 4 * 50e-5)


def test_money_is_shared_among_the_answers() -> None:
    decision = decided(choices=4, budgets=Budgets(max_cost_usd=100e-6 + 4 * 20e-5))
    assert (decision.max_tokens, decision.limited_by_cost) == (20, True)
    with pytest.raises(BudgetExhausted, match="4 choices"):
        decided(choices=4, budgets=Budgets(max_cost_usd=100e-6 + 3e-5))


def test_answers_share_the_steps() -> None:
    assert decided(choices=8).predicted_tpot_s > decided(choices=1).predicted_tpot_s


def test_every_prompt_must_fit_by_itself_and_not_all_together() -> None:
    assert decided(prompt=300, choices=4, batch_tokens={"flash": 1200}).max_tokens == 50
    with pytest.raises(ContextLengthExceeded):
        decided(prompt=500)


def test_a_replica_that_holds_the_prompt_is_chosen_until_others_are_sooner() -> None:
    """What is cached makes it faster and cheaper; being cheaper alone must not draw all work to one replica."""
    policy = parse_policy(POLICY.replace("max_depth: 0", "max_depth: 0, objective: cheapest")).policy
    assert isinstance(policy, Policy)

    def chosen(queued: int) -> Decision:
        loads = [
            replace(LOAD, replica="empty"),
            replace(LOAD, replica="holds", queued_tokens=queued, queued_requests=1),
        ]
        query = RouteQuery(policy.tenants["acme"], "flash", {"flash": 200}, 50, cached_tokens={"holds": 192})
        return decide(query, {"flash": loads}, policy, now_s=0.0, decision_id="id")

    near, far = chosen(0), chosen(400)
    assert (near.replica, far.replica) == ("holds", "empty")
    assert near.predicted_cost_usd == pytest.approx(8e-6 + 192e-6 + 50e-5), "no cached price: as others"
    assert near.predicted_ttft_s < far.predicted_ttft_s
