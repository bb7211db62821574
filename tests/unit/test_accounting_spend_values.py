"""What spend looks like as JSON, and what a question or a report may not say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from outrider.accounting import (
    BudgetState,
    Cohort,
    OutcomeReport,
    RateState,
    Row,
    Share,
    Span,
    Spend,
    SpendQuery,
    Totals,
    Usage,
    UsageBucket,
    Workflow,
    WorkflowQuery,
    WorkflowSpend,
)
from outrider.accounting.days import days
from outrider.accounting.questions import zone_called
from outrider.errors import InvalidRequest
from support.settlements import DAY_S, MONDAY_S

SPAN = Span(MONDAY_S, MONDAY_S + DAY_S)
USED = Totals(calls=3, errors=1, prompt_tokens=100, cached_tokens=40, completion_tokens=7, cost_nusd=1_500_000_001)
BUDGET = BudgetState("tenant:acme", "day", "UTC", SPAN, limit_nusd=10**10, spent_nusd=4 * 10**9, reserved_nusd=10**9)


def test_a_usage_page_has_the_names_of_openais_usage_api() -> None:
    rate = RateState("tenant:acme", 60, None, 4)
    bucket = UsageBucket(SPAN, (Row("flash", USED),))
    page = Usage("acme", None, SPAN, (BUDGET,), (rate,), (bucket,)).to_json()
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    assert page["budgets"][0]["remaining_usd"] == 5.0
    assert page["budgets"][0]["resets_at"] == MONDAY_S + DAY_S
    assert page["rate_limits"][0]["requests_per_minute"] == 60
    result = page["data"][0]["results"][0]
    assert (page["data"][0]["object"], page["data"][0]["start_time"]) == ("bucket", MONDAY_S)
    assert (result["model"], result["num_model_requests"]) == ("flash", 3)
    assert (result["input_tokens"], result["input_cached_tokens"], result["output_tokens"]) == (100, 40, 7)
    assert result["amount"] == {"value": 1.500000001, "currency": "usd"}


def test_an_overdrawn_budget_has_nothing_left() -> None:
    assert replace(BUDGET, reserved_nusd=10**11).remaining_nusd == 0


def test_a_spend_table_adds_up() -> None:
    table = Spend.of("team", SPAN, [Row("red", USED), Row(None, USED)])
    assert table.total == USED + USED
    assert [row["team"] for row in table.to_json()["data"]] == ["red", None]


def flow(*reports: OutcomeReport) -> Workflow:
    return Workflow("acme", "w", 10.0, 14.0, 3.0, 0.1, None, (Row("flash", USED), Row("pro", USED)), reports)


def test_a_workflow_is_what_was_reported_last() -> None:
    assert flow().to_json()["status"] == "unreported"
    assert flow().to_json()["outcome"] is None
    seen = flow(OutcomeReport("success", 2.0, None, 9.0), OutcomeReport("failure", time_s=8.0)).to_json()
    assert (seen["status"], seen["outcome"]["value"]) == ("success", 2.0)
    assert [each["outcome"] for each in seen["earlier_outcomes"]] == ["failure"]
    assert (seen["wall_ms"], seen["busy_ms"], seen["ttft_ms"]) == (4_000.0, 3_000.0, {"p50": 100.0, "p95": None})
    assert seen["num_model_requests"] == 6


def test_failed_attempts_are_paid_by_successes_and_unreported_ones_by_nobody() -> None:
    def share(workflows: int, usd: int) -> Share:
        return Share(workflows, Totals(calls=workflows, cost_nusd=usd * 10**9))

    red = Cohort("red", {"success": share(2, 6), "failure": share(3, 3), "unreported": share(9, 99)})
    blue = Cohort(None, {"abandoned": share(1, 5)})
    assert (red.usd_per_success, red.success_usd) == (4.5, 3.0)
    assert (blue.usd_per_success, blue.success_usd) == (None, None)
    found = WorkflowSpend("team", SPAN, (red, blue))
    assert found.total.usd_per_success == 7.0
    assert found.total.all == share(15, 113)
    shown = found.to_json()
    assert [row["team"] for row in shown["data"]] == ["red", None]
    assert shown["data"][1]["success"]["workflows"] == 0
    assert shown["total"]["unreported"]["amount"]["value"] == 99.0


@pytest.mark.parametrize(
    ("make", "param"),
    [
        (lambda: Span(2.0, 2.0), "start_time"),
        (lambda: SpendQuery(SPAN, "colour"), "by"),  # type: ignore[arg-type]
        (lambda: SpendQuery(SPAN, time_zone="Mars/Olympus"), "time_zone"),
        (lambda: SpendQuery(SPAN, time_zone="../../etc/passwd"), "time_zone"),
        (lambda: WorkflowQuery(SPAN, "day"), "by"),  # type: ignore[arg-type]
        (lambda: WorkflowQuery(SPAN, top=-1), "top"),
        (lambda: OutcomeReport("won"), "outcome"),  # type: ignore[arg-type]
        (lambda: OutcomeReport("success", float("nan")), "value"),
        (lambda: OutcomeReport("success", note="x" * 501), "note"),
        (lambda: days(Span(0.0, 401 * DAY_S), zone_called("UTC")), "start_time"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: Callable[[], object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make()
    assert refused.value.param == param


def test_a_day_that_changes_its_clocks_is_shorter_or_longer() -> None:
    berlin = zone_called("Europe/Berlin")
    autumn = days(Span(1_761_429_600.0, 1_761_429_600.0 + 2 * DAY_S), berlin)
    assert [(day.name, (day.span.until_s - day.span.since_s) / 3600) for day in autumn] == [
        ("2025-10-26", 25.0),
        ("2025-10-27", 23.0),
    ]
