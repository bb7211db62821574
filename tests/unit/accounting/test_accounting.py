"""Gateways, owner and database together, in one process: what a gateway's code relies on."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from outrider.accounting import LeasedAccountant
from outrider.database import open_database
from outrider.errors import BudgetExhausted, ConcurrencyLimited, OutriderError, RateLimited
from outrider.policy import Budget, Limits, Tenant
from support.accounts import DAILY, ask, gateways, policy_of, settlement, totals
from support.databases import database_url, postgres

__all__ = ["database_url", "postgres"]


def sqlite(tmp_path: object) -> str:
    return f"sqlite:///{tmp_path}/outrider.db"


async def spend(accountant: LeasedAccountant, tenant: Tenant, rng: random.Random) -> tuple[float, OutriderError | None]:
    """One request of a cent or so: what was delivered."""
    asked = ask(tenant, predicted_usd=0.012, floor_usd=0.002)
    try:
        held = await accountant.reserve(asked)
    except OutriderError as error:
        return 0.0, error
    await asyncio.sleep(rng.random() * 0.01)
    cost = rng.uniform(0.002, 0.03)
    if cost > held.usd and not await accountant.extend(held, cost - held.usd):
        cost = held.usd
    await accountant.settle(held, settlement(asked, cost))
    return cost, None


async def test_64_clients_on_one_budget_over_two_gateways_spend_it_and_no_more(database_url: str) -> None:
    policy = policy_of({"acme": Limits(budgets=(DAILY,))})
    tenant, rng = policy.tenants["acme"], random.Random(7)
    spent, refusals = 0.0, []

    async def client(accountant: LeasedAccountant) -> None:
        nonlocal spent
        while True:
            cost, error = await spend(accountant, tenant, rng)
            spent += cost
            if isinstance(error, BudgetExhausted):
                return
            if error is not None:
                refusals.append(error)
                await asyncio.sleep(0.01)

    async with gateways(database_url, policy, 2) as accountants:
        await asyncio.gather(*(client(accountants[each % 2]) for each in range(64)))
    found = totals(open_database(database_url))
    assert found["cost_nusd"] == pytest.approx(spent * 1e9, abs=found["rows"])
    assert found["forgiven_nusd"] == found["leases"] == 0
    assert 0.998e9 <= found["cost_nusd"] <= 1e9, "whoever needs the last cents gets them, and nobody more"
    assert all(isinstance(each, RateLimited) for each in refusals), "held money may come free"


async def test_a_fresh_tenant_whose_budget_covers_the_quantile_is_let_in(tmp_path: object) -> None:
    policy = policy_of({f"t{each}": Limits(budgets=(Budget(0.01, "month"),)) for each in range(20)})
    async with gateways(sqlite(tmp_path), policy, 2) as accountants:
        for number, tenant in enumerate(policy.tenants.values()):
            held = await accountants[number % 2].reserve(ask(tenant, predicted_usd=0.01))
            assert held.usd == 0.01


async def test_what_the_other_gateway_does_not_use_is_given_back(tmp_path: object) -> None:
    policy = policy_of({"acme": Limits(budgets=(DAILY,))})
    tenant = policy.tenants["acme"]
    async with gateways(sqlite(tmp_path), policy, 2) as (one, other):
        one.release(await one.reserve(ask(tenant, predicted_usd=0.9)))
        held = await other.reserve(ask(tenant, predicted_usd=1.0))
        assert held.usd == 1.0


async def test_less_is_held_when_only_the_floor_is_there(tmp_path: object) -> None:
    policy = policy_of({"acme": Limits(budgets=(DAILY,))})
    tenant = policy.tenants["acme"]
    async with gateways(sqlite(tmp_path), policy, 2) as (one, other):
        first = await one.reserve(ask(tenant, predicted_usd=0.9))
        second = await other.reserve(ask(tenant, predicted_usd=0.5, floor_usd=0.05))
        assert second.usd == pytest.approx(0.1)
        assert not await other.extend(second, 0.01)
        one.release(first)
        assert await other.extend(second, 0.4)
        assert second.usd == pytest.approx(0.5)


async def test_held_money_is_worth_waiting_for_and_spent_money_is_not(tmp_path: object) -> None:
    policy = policy_of({"acme": Limits(budgets=(DAILY,))})
    tenant = policy.tenants["acme"]
    async with gateways(sqlite(tmp_path), policy) as [accountant]:
        asked = ask(tenant, predicted_usd=1.0)
        held = await accountant.reserve(asked)
        with pytest.raises(RateLimited, match="held for requests"):
            await accountant.reserve(ask(tenant))
        await accountant.settle(held, settlement(asked, 1.0))
        with pytest.raises(BudgetExhausted, match="tenant:acme is spent"):
            await accountant.reserve(ask(tenant))


async def test_a_team_s_budget_is_shared_by_its_tenants(tmp_path: object) -> None:
    team = Limits(budgets=(DAILY,))
    policy = policy_of({"a": Limits(), "b": Limits()}, team_of={"a": "blue", "b": "blue"}, teams={"blue": team})
    async with gateways(sqlite(tmp_path), policy) as [accountant]:
        asked = ask(policy.tenants["a"], predicted_usd=1.0)
        await accountant.settle(await accountant.reserve(asked), settlement(asked, 1.0))
        with pytest.raises(BudgetExhausted, match="team:blue"):
            await accountant.reserve(ask(policy.tenants["b"]))


async def test_settling_twice_counts_once(database_url: str) -> None:
    policy = policy_of({"acme": Limits(budgets=(DAILY,))})
    async with gateways(database_url, policy, 2) as (one, other):
        asked = ask(policy.tenants["acme"])
        held = await one.reserve(asked)
        await asyncio.gather(*(one.settle(held, settlement(asked)) for _ in range(3)))
        again = await other.reserve(asked)
        await other.settle(again, settlement(asked))
    found = totals(open_database(database_url))
    assert (found["rows"], found["cost_nusd"]) == (1, 5_000_000)


async def test_permits_are_held_for_the_life_of_a_request(tmp_path: object) -> None:
    policy = policy_of({"acme": Limits(concurrency=2)})
    tenant = policy.tenants["acme"]
    async with gateways(sqlite(tmp_path), policy, 2) as (one, other):
        asked = ask(tenant)
        first, second = await one.reserve(asked), await other.reserve(ask(tenant))
        for accountant in (one, other):
            with pytest.raises(ConcurrencyLimited):
                await accountant.reserve(ask(tenant))
        await one.settle(first, settlement(asked))
        third = await other.reserve(ask(tenant))
        other.release(second)
        other.release(third)
        await one.reserve(ask(tenant))
        await one.reserve(ask(tenant))


async def test_tokens_per_minute_count_what_was_streamed(tmp_path: object) -> None:
    policy = policy_of({"acme": Limits(tokens_per_minute=1000, requests_per_minute=100)})
    tenant = policy.tenants["acme"]
    async with gateways(sqlite(tmp_path), policy) as [accountant]:
        asked = ask(tenant, tokens=100)
        held = await accountant.reserve(asked)
        assert held.usd == math.inf
        await accountant.settle(held, settlement(asked, prompt_tokens=60, completion_tokens=1440))
        with pytest.raises(RateLimited, match="tokens per minute") as caught:
            await accountant.reserve(ask(tenant, tokens=100))
        assert caught.value.retry_after_s == pytest.approx(36, abs=1.5), "500 too many and 100 more, at 1000 a minute"
        limits = accountant.limits(tenant)
        assert limits.tokens is not None
        assert limits.requests is not None
        assert limits.tokens.remaining == 0
        assert limits.requests.limit == 100


async def test_who_has_no_limits_makes_no_call_before_it_settles(tmp_path: object) -> None:
    class Silent:
        """Nobody answers."""

        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was called")

    policy = policy_of({"acme": Limits()})
    accountant = LeasedAccountant(Silent(), lambda: policy)  # type: ignore[arg-type]
    held = await accountant.reserve(ask(policy.tenants["acme"]))
    assert held.usd == math.inf
    assert await accountant.extend(held, 1e6)
    accountant.release(held)
