"""Windows of every period in every zone partition time, through every change of clocks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.accounting.windows import QUARTER_S, span_at, window_at
from outrider.policy import Budget
from outrider.policy.schema import Period

PERIODS = get_args(Period)
ZONES = sorted(available_timezones())
FIRST_S = int(datetime(2012, 1, 1, tzinfo=UTC).timestamp())
LAST_S = int(datetime(2045, 1, 1, tzinfo=UTC).timestamp())
moments = st.integers(FIRST_S, LAST_S)


@given(period=st.sampled_from(PERIODS), zone=st.sampled_from(ZONES), at_s=moments)
def test_windows_partition_time(period: Period, zone: str, at_s: int) -> None:
    window = window_at(period, zone, at_s)
    assert at_s in window
    assert window_at(period, zone, window.start_s) == window
    assert window_at(period, zone, window.end_s - 0.001) == window
    assert window_at(period, zone, window.end_s).start_s == window.end_s
    assert window_at(period, zone, window.start_s - 1).end_s == window.start_s
    assert window.start_s % QUARTER_S == window.end_s % QUARTER_S == 0


@given(zone=st.sampled_from(ZONES), at_s=moments)
def test_a_span_lies_in_every_window_around_it(zone: str, at_s: int) -> None:
    budgets = [Budget(1.0, period, zone) for period in PERIODS] + [Budget(1.0, "day", "UTC")]
    span = span_at(budgets, at_s)
    for budget in budgets:
        window = window_at(budget.period, budget.time_zone, at_s)
        assert window.start_s <= span.start_s <= at_s < span.end_s <= window.end_s


@pytest.mark.parametrize(
    ("period", "zone", "at", "hours"),
    [
        ("day", "Europe/Berlin", "2026-03-29T12:00", 23),
        ("day", "Europe/Berlin", "2026-10-25T12:00", 25),
        ("week", "Europe/Berlin", "2026-10-25T12:00", 169),
        ("month", "UTC", "2028-02-10T00:00", 29 * 24),
        ("hour", "Asia/Kolkata", "2026-05-01T12:40", 1),
        ("hour", "Australia/Lord_Howe", "2026-04-05T01:40", 1),
        ("day", "Africa/Cairo", "2026-04-24T12:00", 23),
    ],
)
def test_clocks_change(period: Period, zone: str, at: str, hours: float) -> None:
    window = window_at(period, zone, datetime.fromisoformat(at).replace(tzinfo=ZoneInfo(zone)).timestamp())
    assert (window.end_s - window.start_s) / 3600 == hours
