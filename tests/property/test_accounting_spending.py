"""What was spent adds up however it is split, whatever hypothesis settles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, insert, select
from sqlalchemy.pool import StaticPool

from outrider.accounting.days import days
from outrider.accounting.outcomes import record_outcome
from outrider.accounting.questions import SpendQuery, WorkflowQuery
from outrider.accounting.spend_queries import as_totals, read_spend, sums, total
from outrider.accounting.totals import NOTHING, GroupBy, Span, Totals
from outrider.accounting.workflow_queries import read_workflow, read_workflow_spend
from outrider.accounting.workflows import OutcomeReport
from outrider.database.tables import LEDGER, METADATA
from support.settlements import DAY_S, MONDAY_S, Call, calls, summed

ALL = Span(MONDAY_S - DAY_S, MONDAY_S + 10 * DAY_S)
SPLITS: tuple[GroupBy, ...] = ("tenant", "team", "model", "tag", "day", "workflow")
ENGINE = create_engine("sqlite://", poolclass=StaticPool)
METADATA.create_all(ENGINE)
quick = settings(max_examples=40, deadline=None)


@contextmanager
def ledger_of(settled: list[Call]) -> Iterator[Connection]:
    """A ledger that holds these, in this order, until the block ends."""
    with ENGINE.connect() as connection:
        if settled:
            connection.execute(insert(LEDGER), [call.row(number) for number, call in enumerate(settled)])
        yield connection
        connection.rollback()


@pytest.mark.parametrize("by", SPLITS)
@quick
@given(settled=calls(), zone=st.sampled_from(["UTC", "America/St_Johns", "Pacific/Apia"]))
def test_rows_of_any_split_add_up_to_what_was_settled(by: GroupBy, settled: list[Call], zone: str) -> None:
    with ledger_of(settled) as connection:
        found = read_spend(connection, SpendQuery(ALL, by, time_zone=zone))
        assert sum((row.totals for row in found.rows), NOTHING) == found.total == summed(settled)
        assert len({row.key for row in found.rows}) == len(found.rows)


@pytest.mark.parametrize("by", ["team", "tag", "workflow"])
def test_a_split_that_drops_what_has_no_key_would_be_caught(by: GroupBy) -> None:
    settled = [Call(team="red", tags=("a",), workflow="w", cost_nusd=3), Call(cost_nusd=4)]
    with ledger_of(settled) as connection:
        assert [
            (row.key is None, row.totals.cost_nusd) for row in read_spend(connection, SpendQuery(ALL, by)).rows
        ] == [
            (True, 4),
            (False, 3),
        ]
        column = LEDGER.c["tags" if by == "tag" else by]
        careless = select(column, *sums()).where(column.is_not(None) if by != "tag" else column != "[]")
        kept = [as_totals(row) for row in connection.execute(careless.group_by(column))]
        assert sum(kept, NOTHING) != summed(settled)


@quick
@given(
    settled=calls(),
    cuts=st.lists(st.integers(0, 3 * 96).map(lambda n: MONDAY_S + n * 900.0), max_size=6, unique=True),
)
def test_ranges_partition_requests(settled: list[Call], cuts: list[float]) -> None:
    borders = [ALL.since_s, *sorted(cuts), ALL.until_s]
    spans = [Span(*pair) for pair in pairwise(borders)]
    with ledger_of(settled) as connection:
        parts = [total(connection, span, {"tenant": "acme"}) for span in spans]
        assert sum(parts, NOTHING) == summed(settled, lambda call: call.tenant == "acme")
        begun = [read_workflow_spend(connection, WorkflowQuery(span)).total.all for span in spans]
        whole = read_workflow_spend(connection, WorkflowQuery(ALL)).total.all
        assert sum(each.workflows for each in begun) == whole.workflows
        assert sum((each.totals for each in begun), NOTHING) == whole.totals


@quick
@given(
    zone=st.sampled_from(["UTC", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]),
    since_s=st.floats(1.2e9, 1.8e9),
    length_s=st.floats(1.0, 380 * DAY_S),
)
def test_days_partition_a_span(zone: str, since_s: float, length_s: float) -> None:
    span = Span(since_s, since_s + length_s)
    found = days(span, ZoneInfo(zone))
    borders = [(day.span.since_s, day.span.until_s) for day in found]
    assert borders[0][0] == span.since_s
    assert borders[-1][1] == span.until_s
    assert all(one[1] == two[0] for one, two in pairwise(borders))
    assert len({day.name for day in found}) == len(found)


def plain_busy_s(settled: list[Call]) -> float:
    """Moments at which something runs, between every two neighbouring starts and ends."""
    moments = sorted({moment for call in settled for moment in (call.time_s, call.time_s + call.wall_s)})
    return sum(
        later - sooner
        for sooner, later in pairwise(moments)
        if any(call.time_s <= sooner and call.time_s + call.wall_s >= later for call in settled)
    )


def nearest_rank(values: list[float], share: float) -> float | None:
    return sorted(values)[max(0, math.ceil(round(share * len(values), 9)) - 1)] if values else None


@quick
@given(settled=calls(24), shuffle=st.randoms(use_true_random=False))
def test_a_workflow_is_what_its_calls_are_in_any_order(settled: list[Call], shuffle: object) -> None:
    own = [call for call in settled if call.tenant == "acme" and call.workflow == "w1"]
    mixed = list(settled)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    with ledger_of(settled) as connection:
        found = read_workflow(connection, "acme", "w1")
    with ledger_of(mixed) as connection:
        again = read_workflow(connection, "acme", "w1")
    if not own:
        assert found is again is None
        return
    assert found is not None
    assert again is not None
    assert found.totals == again.totals == summed(own)
    assert found.start_s == min(call.time_s for call in own)
    assert found.end_s == max(call.time_s + call.wall_s for call in own)
    assert found.busy_s == pytest.approx(plain_busy_s(own), rel=1e-9, abs=1e-5)
    assert again.busy_s == pytest.approx(found.busy_s, rel=1e-9, abs=1e-5)
    ttft_s = [call.ttft_s for call in own if call.ttft_s is not None]
    assert (found.ttft_p50_s, found.ttft_p95_s) == (nearest_rank(ttft_s, 0.5), nearest_rank(ttft_s, 0.95))
    assert {row.key for row in found.by_model} == {call.model for call in own}


OUTCOMES = st.sampled_from(["success", "failure", "abandoned"])


@pytest.mark.parametrize("by", ["tenant", "team", "tag", "model"])
@quick
@given(
    settled=calls(),
    reports=st.lists(st.tuples(st.sampled_from(["acme", "bolt"]), st.sampled_from(["w1", "w2"]), OUTCOMES)),
)
def test_cost_per_success_is_all_money_that_ended_by_successes(
    by: str, settled: list[Call], reports: list[tuple[str, str, str]]
) -> None:
    last = {(tenant, workflow): outcome for tenant, workflow, outcome in reports}
    with ledger_of(settled) as connection:
        for tenant, workflow, outcome in reports:
            record_outcome(connection, tenant, workflow, OutcomeReport(outcome), 0.0)  # type: ignore[arg-type]
        found = read_workflow_spend(connection, WorkflowQuery(ALL, by))  # type: ignore[arg-type]
    known = {(call.tenant, call.workflow) for call in settled if call.workflow}
    won = sum(last.get(key) == "success" for key in known)
    ended = summed(settled, lambda call: call.workflow is not None and (call.tenant, call.workflow) in last)
    assert found.total.share("success").workflows == won
    assert found.total.usd_per_success == (pytest.approx(ended.cost_nusd / won / 1e9) if won else None)
    assert found.total.all.totals == summed(settled, lambda call: call.workflow is not None)
    assert found.total.all.workflows == len(known)


def test_totals_add_field_by_field() -> None:
    one = Totals(*range(1, 11))
    assert one + one == Totals(*range(2, 21, 2))
