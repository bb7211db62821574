"""Policies, tenants, settlements and clocks for tests of accounting."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from outrider.accounting import AccountingOwner, Ask, LeasedAccountant, Settlement
from outrider.accounting.clock import Clock
from outrider.database import Database, open_database
from outrider.policy import Budget, Limits, Policy, Team, Tenant, parse_policy

__all__ = ["DAILY", "ManualClock", "ask", "gateways", "policy_of", "settlement", "totals"]

DAILY = Budget(1.0, "day")

_NUMBERS = itertools.count()

_DOCUMENT = """
version: 1
models:
  pro: {price_usd_per_million: {input: 1, output: 2}, quality: {default: 0.5}}
batch_classes: {standard: {}}
tiers:
  standard: {batch_class: standard}
tenants:
  any: {keys: [], tier: standard, models: [pro]}
"""


class ManualClock:
    """Goes only where it is told to; wall and steady apart."""

    def __init__(self, wall_s: float = 1_764_000_000.0, steady_s: float = 1000.0) -> None:
        self._wall_s, self._steady_s = wall_s, steady_s

    def wall_s(self) -> float:
        return self._wall_s

    def steady_s(self) -> float:
        return self._steady_s

    def pass_s(self, seconds: float) -> None:
        self._wall_s += seconds
        self._steady_s += seconds

    def jump_s(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self._wall_s += seconds


def policy_of(
    tenants: Mapping[str, Limits],
    *,
    team_of: Mapping[str, str] | None = None,
    teams: Mapping[str, Limits] | None = None,
) -> Policy:
    """A policy with tenants and teams of those limits; `team_of` names the team of a tenant."""
    policy = parse_policy(_DOCUMENT).policy
    assert policy is not None
    pattern = policy.tenants["any"]
    made = {
        name: replace(pattern, name=name, limits=limits, team=(team_of or {}).get(name))
        for name, limits in tenants.items()
    }
    return replace(policy, tenants=made, teams={name: Team(name, each) for name, each in (teams or {}).items()})


def ask(tenant: Tenant, predicted_usd: float = 0.01, floor_usd: float = 0.001, tokens: int = 100) -> Ask:
    return Ask(f"d{next(_NUMBERS)}", tenant, predicted_usd, floor_usd, tokens)


def settlement(asked: Ask, cost_usd: float = 0.005, **changes: Any) -> Settlement:
    """Of a request that was answered; 60 prompt and 40 completion tokens."""
    values: dict[str, Any] = {
        "request_id": f"r-{asked.decision_id}",
        "time_s": 1_764_000_000.0,
        "wall_s": 0.5,
        "tenant": asked.tenant.name,
        "team": asked.tenant.team,
        "model": "pro",
        "policy_version": "abc",
        "status": 200,
        "prompt_tokens": 60,
        "completion_tokens": 40,
        "finish_reason": "stop",
    }
    return Settlement(decision_id=asked.decision_id, cost_usd=cost_usd, **values | changes)


@asynccontextmanager
async def gateways(
    url: str, policy: Policy, count: int = 1, *, clock: Clock | None = None, lease_s: float = 30.0
) -> AsyncIterator[list[LeasedAccountant]]:
    """An owner and gateways in one process; all settled and given back at the end."""
    database = open_database(url)
    owner = AccountingOwner(database, lambda: policy, clock=clock, lease_s=lease_s)
    await owner.start()
    accountants = [LeasedAccountant(owner, lambda: policy, clock=clock) for _ in range(count)]
    try:
        yield accountants
    finally:
        for each in accountants:
            await each.close()
        await owner.close()
        database.close()


def totals(database: Database) -> dict[str, int]:
    """Sums of the ledger, checked against the windows: rows, cost_nusd, forgiven_nusd, leases."""
    with database.read() as connection:
        asked = "SELECT count(*), coalesce(sum(cost_nusd), 0), coalesce(sum(forgiven_nusd), 0) FROM ledger"
        rows, cost, forgiven = connection.execute(sa.text(asked)).one()
        spent = "SELECT coalesce(sum(nusd), 0) FROM spent WHERE account LIKE 'tenant:%'"
        windows = connection.execute(sa.text(spent)).scalar_one()
        leases = connection.execute(sa.text("SELECT count(*) FROM leases")).scalar_one()
    assert int(windows) == int(cost), "the windows' sum is the rows' sum"
    return {"rows": int(rows), "cost_nusd": int(cost), "forgiven_nusd": int(forgiven), "leases": int(leases)}
