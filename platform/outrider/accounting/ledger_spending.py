"""`Spending` out of the database: for the process that keeps it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from outrider.accounting.days import days
from outrider.accounting.outcomes import record_outcome
from outrider.accounting.questions import SpendQuery, WorkflowQuery, zone_called
from outrider.accounting.spend_queries import by_model, read_spend
from outrider.accounting.standing import calendar_s, limits_of, rate_states, read_budgets
from outrider.accounting.totals import Span, Spend
from outrider.accounting.usage import BudgetState, Usage, UsageBucket
from outrider.accounting.windows import window_at
from outrider.accounting.workflow_queries import read_workflow, read_workflow_spend
from outrider.accounting.workflows import OutcomeReport, Workflow, WorkflowSpend
from outrider.database import Database
from outrider.errors import WorkflowNotFound
from outrider.policy import Policy, Tenant

__all__ = ["LedgerSpending"]

AnswerT = TypeVar("AnswerT")

MAX_READERS = 2
"""Questions answered at once; more wait, so that tables for operators leave the owner its share of the process."""


class LedgerSpending:
    """See `Spending`. The database is asked on other threads: a long table does not hold up who keeps the ledger.

    policy returns the one in force; clock: seconds of the epoch.
    """

    def __init__(
        self, database: Database, policy: Callable[[], Policy], clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock
        self._readers = asyncio.Semaphore(MAX_READERS)

    async def usage(self, tenant: Tenant, span: Span | None = None, *, by_day: bool = False) -> Usage:
        """Days are those of the zone that the tenant's first budget is in, else UTC."""
        limits = limits_of(tenant, self._policy())

        def read(connection: Connection) -> Usage:
            now_s = calendar_s(connection, self._clock())
            budgets = read_budgets(connection, limits, now_s)
            asked = span or _present(budgets, now_s)
            zone = zone_called(budgets[0].time_zone if budgets else "UTC")
            parts = [day.span for day in days(asked, zone)] if by_day else [asked]
            buckets = tuple(UsageBucket(part, by_model(connection, part, {"tenant": tenant.name})) for part in parts)
            return Usage(tenant.name, tenant.team, asked, budgets, rate_states(limits), buckets)

        return await self._read(read)

    async def workflow(self, tenant: str, workflow: str) -> Workflow:
        """One of a tenant's workflows. Raises WorkflowNotFound."""
        return await self._read(lambda connection: _known(connection, tenant, workflow))

    async def report_outcome(self, tenant: str, workflow: str, report: OutcomeReport) -> Workflow:
        """Durable when it returns; the last report counts. Raises WorkflowNotFound, InvalidRequest."""

        await self._read(lambda connection: _known(connection, tenant, workflow))

        def write() -> None:
            with self._database.write() as connection:
                record_outcome(connection, tenant, workflow, report, self._clock())

        await asyncio.to_thread(write)
        return await self.workflow(tenant, workflow)

    async def spend(self, query: SpendQuery) -> Spend:
        """Raises InvalidRequest for more days than fit a table."""
        return await self._read(lambda connection: read_spend(connection, query))

    async def workflows(self, query: WorkflowQuery) -> WorkflowSpend:
        """What completed workflows cost."""
        return await self._read(lambda connection: read_workflow_spend(connection, query))

    async def _read(self, ask: Callable[[Connection], AnswerT]) -> AnswerT:
        def read() -> AnswerT:
            with self._database.read() as connection:
                return ask(connection)

        async with self._readers:
            return await asyncio.to_thread(read)


def _known(connection: Connection, tenant: str, workflow: str) -> Workflow:
    found = read_workflow(connection, tenant, workflow)
    if found is None:
        raise WorkflowNotFound(f"no request of yours has finished under the workflow {workflow[:128]!r}", param="id")
    return found


def _present(budgets: Sequence[BudgetState], now_s: float) -> Span:
    """The longest budget period that runs now, else the month in UTC."""
    month = window_at("month", "UTC", now_s)
    windows = [each.window for each in budgets] or [Span(month.start_s, month.end_s)]
    return max(windows, key=lambda each: each.until_s - each.since_s)
