"""Workflows out of the ledger. One of them is found by (tenant, workflow) alone, however large the ledger is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, Subquery, and_, case, exists, func, select

from outrider.accounting.outcomes import read_outcomes
from outrider.accounting.questions import WorkflowQuery
from outrider.accounting.spend_queries import Filter, as_totals, joint, sums, tags_of, within
from outrider.accounting.totals import NOTHING, Row, Span, Totals
from outrider.accounting.workflows import Cohort, Share, Status, Workflow, WorkflowSpend
from outrider.database.tables import LEDGER, WORKFLOW_OUTCOMES

__all__ = ["read_workflow", "read_workflow_spend"]

Key = tuple[str, str]
"""Tenant and workflow."""


def read_workflow(connection: Connection, tenant: str, workflow: str) -> Workflow | None:
    """Everything about one; None where the tenant never used that id."""
    own = and_(LEDGER.c.tenant == tenant, LEDGER.c.workflow == workflow)
    ends = select(func.min(LEDGER.c.time_s), func.max(LEDGER.c.time_s + LEDGER.c.wall_s)).where(own)
    start_s, end_s = connection.execute(ends).one()
    if start_s is None:
        return None
    models = select(LEDGER.c.model.label("key"), *sums()).where(own).group_by(LEDGER.c.model).order_by(LEDGER.c.model)
    p50_s, p95_s = _ttft(connection, own)
    return Workflow(
        tenant=tenant,
        id=workflow,
        start_s=start_s,
        end_s=end_s,
        busy_s=_busy_s(connection, own),
        ttft_p50_s=p50_s,
        ttft_p95_s=p95_s,
        by_model=tuple(Row(row.key, as_totals(row)) for row in connection.execute(models)),
        reports=read_outcomes(connection, tenant, workflow),
    )


def _ttft(connection: Connection, own: ColumnElement[bool]) -> tuple[float | None, float | None]:
    """Nearest-rank 50th and 95th percentile: the least value with at least that share at or below it."""
    rank = func.row_number().over(order_by=LEDGER.c.ttft_s).label("rank")
    ranked = select(LEDGER.c.ttft_s, rank, func.count().over().label("n")).where(own, LEDGER.c.ttft_s.is_not(None))
    each = ranked.subquery()
    half = func.min(case((each.c.rank * 2 >= each.c.n, each.c.ttft_s)))
    most = func.min(case((each.c.rank * 20 >= each.c.n * 19, each.c.ttft_s)))
    p50_s, p95_s = connection.execute(select(half, most)).one()
    return p50_s, p95_s


def _busy_s(connection: Connection, own: ColumnElement[bool]) -> float:
    """How long at least one request ran: each adds what it has beyond the latest end of those that started before."""
    end_s = LEDGER.c.time_s + LEDGER.c.wall_s
    earlier = func.max(end_s).over(order_by=(LEDGER.c.time_s, LEDGER.c.decision_id), rows=(None, -1))
    each = select(LEDGER.c.time_s.label("start_s"), end_s.label("end_s"), earlier.label("seen_s")).where(own).subquery()
    fresh = case(
        (each.c.seen_s.is_(None) | (each.c.seen_s <= each.c.start_s), each.c.end_s - each.c.start_s),
        (each.c.seen_s < each.c.end_s, each.c.end_s - each.c.seen_s),
        else_=0.0,
    )
    return float(connection.execute(select(func.coalesce(func.sum(fresh), 0.0))).scalar_one())


def _begun(span: Span, only: Filter) -> Subquery:
    """Workflows whose first request started in a span, and which have one there that passes a filter."""
    seen = select(LEDGER.c.tenant, LEDGER.c.workflow).distinct()
    seen = seen.where(within(span, only), LEDGER.c.workflow.is_not(None))
    found = seen.subquery()
    same = and_(LEDGER.c.tenant == found.c.tenant, LEDGER.c.workflow == found.c.workflow)
    earlier = exists().where(same, LEDGER.c.time_s < span.since_s)
    return select(found).where(~earlier).subquery()


def _same(begun: Subquery) -> ColumnElement[bool]:
    return and_(LEDGER.c.tenant == begun.c.tenant, LEDGER.c.workflow == begun.c.workflow)


@dataclass(slots=True)
class _Gathered:
    """One workflow while its parts are read."""

    totals: Totals = NOTHING
    names: set[str] = field(default_factory=set)
    status: Status = "unreported"
    value: float = 0.0


def read_workflow_spend(connection: Connection, query: WorkflowQuery) -> WorkflowSpend:
    """Workflows begun in a span by what they are split by, and the dearest one by one."""
    begun = _begun(query.span, query.only.columns)
    column = LEDGER.c["tags" if query.by == "tag" else query.by]
    parts = select(begun, column.label("key"), *sums()).join_from(begun, LEDGER, _same(begun))
    parts = parts.group_by(begun.c.tenant, begun.c.workflow, column)
    found: dict[Key, _Gathered] = {}
    for row in connection.execute(parts):
        each = found.setdefault((row.tenant, row.workflow), _Gathered())
        each.totals += as_totals(row)
        each.names.update(tags_of(row.key) if query.by == "tag" else [] if row.key is None else [row.key])
    table = WORKFLOW_OUTCOMES
    same = and_(table.c.tenant == begun.c.tenant, table.c.workflow == begun.c.workflow)
    for row in connection.execute(select(table).join_from(begun, table, same).order_by(table.c.id)):
        each = found[row.tenant, row.workflow]
        each.status, each.value = row.outcome, row.value or 0.0
    dearest = sorted(found, key=lambda key: (-found[key].totals.cost_nusd, key))[: query.top]
    listed = (read_workflow(connection, *key) for key in dearest)
    return WorkflowSpend(
        query.by, query.span, _cohorts(found.values()), tuple(each for each in listed if each is not None)
    )


def _cohorts(workflows: Iterable[_Gathered]) -> tuple[Cohort, ...]:
    """By the names together, dearest first."""
    found: dict[str | None, dict[Status, Share]] = {}
    for each in workflows:
        shares = found.setdefault(joint(each.names), {})
        shares[each.status] = shares.get(each.status, Share()) + Share(1, each.totals, each.value)
    cohorts = (Cohort(key, shares) for key, shares in found.items())
    return tuple(sorted(cohorts, key=lambda each: (-each.all.totals.cost_nusd, each.key is None, each.key or "")))
