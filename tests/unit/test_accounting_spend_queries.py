"""What the ledger adds up to is the same on both databases, and found by indices, however much is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from outrider.accounting import Only, OutcomeReport, Span, SpendQuery, WorkflowQuery, read_spend, read_workflow_spend
from outrider.accounting.outcomes import MAX_REPORTS, read_outcomes, record_outcome
from outrider.accounting.spend_queries import by_model
from outrider.accounting.workflow_queries import read_workflow
from outrider.database import Database, open_database
from outrider.database.tables import LEDGER, WORKFLOW_OUTCOMES
from outrider.errors import InvalidRequest
from support.databases import database_url, postgres
from support.settlements import DAY_S, MONDAY_S, Call, summed

__all__ = ["database_url", "postgres"]

WEEK = Span(MONDAY_S, MONDAY_S + 7 * DAY_S)
CALLS = [
    Call(workflow="w1", team="red", tags=("b", "a"), cost_nusd=2**61, prompt_tokens=9),
    Call(workflow="w1", time_s=MONDAY_S + 10, wall_s=5.0, model="pro", cost_nusd=2**61, ttft_s=0.3, missed=True),
    Call(workflow="w1", time_s=MONDAY_S + 11, wall_s=1.0, team="blue", ttft_s=0.2),
    Call(workflow="w2", tags=("a", "b"), cost_nusd=500, error_code="engine_fault", ttft_s=None),
    Call(time_s=MONDAY_S + 1.5 * DAY_S, tags=('"', "ü + x")),
    Call(tenant="bolt", time_s=MONDAY_S - 5, workflow="w1"),
    Call(tenant="bolt", time_s=MONDAY_S + 5, workflow="w1"),
    Call(tenant="bolt", time_s=MONDAY_S + 7 * DAY_S),
]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    with opened.write() as connection:
        connection.execute(sa.insert(LEDGER), [call.row(number) for number, call in enumerate(CALLS)])
        record_outcome(connection, "acme", "w1", OutcomeReport("failure"), MONDAY_S + 9)
        record_outcome(connection, "acme", "w1", OutcomeReport("success", 2.5, "it works"), MONDAY_S)
    yield opened
    opened.close()


def test_sums_too_large_for_a_float_are_exact(database: Database) -> None:
    with database.read() as connection:
        (flash, pro) = by_model(connection, WEEK, {"tenant": "acme"})
    assert (flash.key, pro.key) == ("flash", "pro")
    assert flash.totals == summed(CALLS, lambda call: call.tenant == "acme" and call.model == "flash")
    assert pro.totals.cost_nusd == 2**61


def test_every_split(database: Database) -> None:
    def keys(by: Any, only: Only = Only()) -> list[str | None]:  # noqa: B008
        with database.read() as connection:
            found = read_spend(connection, SpendQuery(WEEK, by, only))
        assert found.total == summed(
            CALLS,
            lambda call: (
                WEEK.since_s <= call.time_s < WEEK.until_s
                and all(getattr(call, name) == value for name, value in only.columns.items())
            ),
        )
        return [row.key for row in found.rows]

    assert keys("tenant") == ["acme", "bolt"]
    assert keys("team", Only("acme")) == [None, "red", "blue"]
    assert keys("tag", Only(workflow="w1")) == [None, "a + b"]
    assert keys("tag") == [None, "a + b", '" + ü + x']
    assert keys("workflow", Only(team="blue")) == ["w1"]
    assert len(keys("day")) == 7


def test_one_workflow(database: Database) -> None:
    with database.read() as connection:
        found = read_workflow(connection, "acme", "w1")
        assert read_workflow(connection, "acme", "w3") is None
    assert found is not None
    assert (found.start_s, found.end_s, found.busy_s) == (MONDAY_S, MONDAY_S + 15, pytest.approx(6.0))
    assert (found.ttft_p50_s, found.ttft_p95_s) == (0.2, 0.3)
    assert [(row.key, row.totals.calls) for row in found.by_model] == [("flash", 2), ("pro", 1)]
    assert found.status == "success"
    assert found.reports == (
        OutcomeReport("success", 2.5, "it works", MONDAY_S),
        OutcomeReport("failure", None, None, MONDAY_S + 9),
    )


def test_workflows_count_where_they_begin(database: Database) -> None:
    with database.read() as connection:
        found = read_workflow_spend(connection, WorkflowQuery(WEEK, "team", top=1))
        earlier = read_workflow_spend(connection, WorkflowQuery(Span(0.0, MONDAY_S)))
    assert {cohort.key: cohort.all.workflows for cohort in found.cohorts} == {"blue + red": 1, None: 1}
    assert found.total.share("success").totals.calls == 3
    assert [flow.id for flow in found.dearest] == ["w1"]
    assert (earlier.total.all.workflows, earlier.total.all.totals.calls) == (1, 2)


def test_reporting_twice_adds_nothing_and_there_is_an_end_to_it(database: Database) -> None:
    with database.write() as connection:
        for _ in range(3):
            record_outcome(connection, "acme", "w2", OutcomeReport("failure", note="x"), 1.0)
        assert len(read_outcomes(connection, "acme", "w2")) == 1
        for value in range(MAX_REPORTS - 1):
            record_outcome(connection, "acme", "w2", OutcomeReport("success", value), 1.0)
        with pytest.raises(InvalidRequest, match="100 times"):
            record_outcome(connection, "acme", "w2", OutcomeReport("abandoned"), 1.0)
        assert read_outcomes(connection, "acme", "w2")[0].value == MAX_REPORTS - 2
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(WORKFLOW_OUTCOMES)).scalar_one() == 102


def whole_tables_read(database: Database, ask: Callable[[sa.Connection], object]) -> list[str]:
    """The steps, of the plans of all statements that `ask` runs, that go through the whole ledger."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            seen.append((statement, parameters))

    steps = []
    with database.read() as connection:
        sa.event.listen(database.engine, "before_cursor_execute", note)
        ask(connection)
        sa.event.remove(database.engine, "before_cursor_execute", note)
        assert seen
        on_sqlite = connection.dialect.name == "sqlite"
        if not on_sqlite:  # what is small it would rather read whole, whatever the indices
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN " if on_sqlite else "EXPLAIN "
        for statement, parameters in seen:
            plan = connection.exec_driver_sql(explain + statement, parameters)
            steps += [str(row[3] if on_sqlite else row[0]).strip() for row in plan]
    whole = ("SCAN ledger", "SCAN workflow_outcomes", "Seq Scan on ledger", "Seq Scan on workflow_outcomes")
    return [step for step in steps if any(name in step for name in whole)]


ASKED: dict[str, Callable[[sa.Connection], object]] = {
    "usage": lambda connection: by_model(connection, WEEK, {"tenant": "acme"}),
    "workflow": lambda connection: read_workflow(connection, "acme", "w1"),
    "tenant by day": lambda connection: read_spend(connection, SpendQuery(WEEK, "day", Only("acme"))),
    "tenant by workflow": lambda connection: read_spend(connection, SpendQuery(WEEK, "workflow", Only("acme"))),
    "team": lambda connection: read_spend(connection, SpendQuery(WEEK, "tenant", Only(team="red"))),
    "everybody": lambda connection: read_spend(connection, SpendQuery(WEEK)),
    "workflows": lambda connection: read_workflow_spend(connection, WorkflowQuery(WEEK)),
    "a tenant's workflows": lambda connection: read_workflow_spend(connection, WorkflowQuery(WEEK, only=Only("acme"))),
}


@pytest.mark.parametrize("asked", ASKED)
def test_indices_find_it(database: Database, asked: str) -> None:
    assert whole_tables_read(database, ASKED[asked]) == []


def test_a_question_without_an_index_would_be_seen(database: Database) -> None:
    careless = sa.select(LEDGER.c.cost_nusd).where(LEDGER.c.request_id == "req-1")
    assert whole_tables_read(database, lambda connection: connection.execute(careless).all())
