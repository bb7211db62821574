"""How an account stands now: budgets against what the accounting owner has made durable, and rates."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, func, select

from outrider.accounting.money import reserve_nusd
from outrider.accounting.totals import Span
from outrider.accounting.types import team_account, tenant_account
from outrider.accounting.usage import BudgetState, RateState
from outrider.accounting.windows import window_at
from outrider.database.tables import LEASES, OWNER, SPENT
from outrider.policy import Budget, Limits, Policy, Tenant

__all__ = ["calendar_s", "limits_of", "rate_states", "read_budgets"]


def limits_of(tenant: Tenant, policy: Policy) -> Mapping[str, Limits]:
    """Account → its limits, the tenant's own first; a team that the policy does not know limits nothing."""
    found = {tenant_account(tenant.name): tenant.limits}
    team = policy.teams.get(tenant.team or "")
    return found | ({team_account(team.name): team.limits} if team else {})


def calendar_s(connection: Connection, now_s: float) -> float:
    """The time by the owner's calendar, which never goes back: a window that it has closed stays closed."""
    return max(now_s, connection.execute(select(OWNER.c.calendar_s)).scalar_one_or_none() or 0.0)


def read_budgets(connection: Connection, limits: Mapping[str, Limits], now_s: float) -> tuple[BudgetState, ...]:
    """Every budget of the accounts, in the policy's order. What gateways lease counts as reserved."""
    return tuple(
        _read_budget(connection, account, budget, now_s) for account, each in limits.items() for budget in each.budgets
    )


def _read_budget(connection: Connection, account: str, budget: Budget, now_s: float) -> BudgetState:
    window = window_at(budget.period, budget.time_zone, now_s)
    spent = select(func.coalesce(func.sum(SPENT.c.nusd), 0)).where(
        SPENT.c.account == account, SPENT.c.start_s >= window.start_s, SPENT.c.start_s < window.end_s
    )
    leased = select(func.coalesce(func.sum(LEASES.c.amount), 0)).where(
        LEASES.c.account == account,
        LEASES.c.kind == "money",
        LEASES.c.span_end_s > window.start_s,
        LEASES.c.span_start_s < window.end_s,
    )
    return BudgetState(
        account=account,
        period=budget.period,
        time_zone=budget.time_zone,
        window=Span(window.start_s, window.end_s),
        limit_nusd=reserve_nusd(budget.limit_usd),
        spent_nusd=int(connection.execute(spent).scalar_one()),
        reserved_nusd=int(connection.execute(leased).scalar_one()),
    )


def rate_states(limits: Mapping[str, Limits]) -> tuple[RateState, ...]:
    """Of the accounts that have any."""
    states = (
        RateState(account, each.requests_per_minute, each.tokens_per_minute, each.concurrency)
        for account, each in limits.items()
    )
    return tuple(each for each in states if each.limited)
