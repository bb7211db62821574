"""What tenants report about their workflows: the last report counts, earlier ones are kept."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from outrider.accounting.workflows import OutcomeReport
from outrider.database.tables import WORKFLOW_OUTCOMES
from outrider.errors import InvalidRequest

__all__ = ["MAX_REPORTS", "read_outcomes", "record_outcome"]

MAX_REPORTS = 100
"""Reports kept of one workflow; more are refused, so that nobody fills the database with them."""


def read_outcomes(connection: Connection, tenant: str, workflow: str) -> tuple[OutcomeReport, ...]:
    """Newest first: in the order they were recorded, whatever their clocks said."""
    table = WORKFLOW_OUTCOMES
    query = select(table).where(table.c.tenant == tenant, table.c.workflow == workflow).order_by(table.c.id.desc())
    return tuple(OutcomeReport(row.outcome, row.value, row.note, row.time_s) for row in connection.execute(query))


def record_outcome(connection: Connection, tenant: str, workflow: str, report: OutcomeReport, now_s: float) -> None:
    """Add a report; the same as the last one again adds nothing, so a client may send it twice.

    The caller's transaction makes it durable. Raises InvalidRequest where there are too many.
    """
    known = read_outcomes(connection, tenant, workflow)
    fresh = (report.outcome, report.value, report.note)
    if known and fresh == (known[0].outcome, known[0].value, known[0].note):
        return
    if len(known) >= MAX_REPORTS:
        raise InvalidRequest(f"the outcome of this workflow was reported {MAX_REPORTS} times already", param="outcome")
    values = {"tenant": tenant, "workflow": workflow, "time_s": now_s}
    row = values | {"outcome": report.outcome, "value": report.value, "note": report.note}
    connection.execute(insert(WORKFLOW_OUTCOMES).values(row))
