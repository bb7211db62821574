"""What the gateway asks about money spent, and the answer out of the ledger."""

from __future__ import annotations

from typing import Protocol

from outrider.accounting.questions import SpendQuery, WorkflowQuery
from outrider.accounting.totals import Span, Spend
from outrider.accounting.usage import Usage
from outrider.accounting.workflows import OutcomeReport, Workflow, WorkflowSpend
from outrider.policy import Tenant

__all__ = ["Spending"]


class Spending(Protocol):
    """Whatever can answer for what was spent: the control process itself, or a gateway's way to it.

    Raises DatabaseError where the ledger cannot be read or written.
    """

    async def usage(self, tenant: Tenant, span: Span | None = None, *, by_day: bool = False) -> Usage:
        """Budgets, rates, and use by model over a span: by default the longest budget period now, else the month."""
        ...

    async def workflow(self, tenant: str, workflow: str) -> Workflow:
        """One workflow. Raises WorkflowNotFound where the tenant has no request under that id."""
        ...

    async def report_outcome(self, tenant: str, workflow: str, report: OutcomeReport) -> Workflow:
        """Record what became of a workflow, durably, and return it. Raises WorkflowNotFound, InvalidRequest."""
        ...

    async def spend(self, query: SpendQuery) -> Spend:
        """Everybody's spend, for operators. Raises InvalidRequest for more days than fit a table."""
        ...

    async def workflows(self, query: WorkflowQuery) -> WorkflowSpend:
        """What completed workflows cost, for operators."""
        ...
