"""Calendar days of a time zone, daylight saving kept: they partition any span."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from outrider.accounting.totals import Span
from outrider.errors import InvalidRequest

__all__ = ["MAX_DAYS", "Day", "days", "midnight_s"]

MAX_DAYS = 400
"""Most days in one table."""


@dataclass(frozen=True, slots=True)
class Day:
    """A day (2026-11-25) and the part of it that a span holds."""

    name: str
    span: Span


def midnight_s(day: date, zone: ZoneInfo) -> float:
    """When a day begins. Where clocks skip midnight it is the moment they do, where they repeat it the first."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def days(span: Span, zone: ZoneInfo) -> tuple[Day, ...]:
    """The days of a span, the first and last cut to it. Raises InvalidRequest for more than MAX_DAYS."""
    if span.until_s - span.since_s > MAX_DAYS * 86400.0:
        raise InvalidRequest(f"a table by day takes at most {MAX_DAYS} days; ask for less", param="start_time")
    return tuple(_cut(span, zone))


def _cut(span: Span, zone: ZoneInfo) -> Iterator[Day]:
    today = datetime.fromtimestamp(span.since_s, zone).date()
    begin_s = span.since_s
    while begin_s < span.until_s:
        tomorrow = today + timedelta(days=1)
        end_s = min(midnight_s(tomorrow, zone), span.until_s)
        if begin_s < end_s:  # a day may be missing: Samoa had no 2011-12-30
            yield Day(today.isoformat(), Span(begin_s, end_s))
        today, begin_s = tomorrow, max(begin_s, end_s)
