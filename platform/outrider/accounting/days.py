"""Calendar days of a time zone, daylight saving kept: they partition any span."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from outrider.accounting.totals import Span
from outrider.accounting.windows import window_at
from outrider.errors import InvalidRequest

__all__ = ["MAX_DAYS", "Day", "days"]

MAX_DAYS = 400
"""Most days in one table."""


@dataclass(frozen=True, slots=True)
class Day:
    """A day (2026-11-25) and the part of it that a span holds."""

    name: str
    span: Span


def days(span: Span, zone: ZoneInfo) -> tuple[Day, ...]:
    """The days of a span, the first and last cut to it. Raises InvalidRequest for more than MAX_DAYS."""
    if span.until_s - span.since_s > MAX_DAYS * 86400.0:
        raise InvalidRequest(f"a table by day takes at most {MAX_DAYS} days; ask for less", param="start_time")
    return tuple(_cut(span, zone))


def _cut(span: Span, zone: ZoneInfo) -> Iterator[Day]:
    begin_s = span.since_s
    while begin_s < span.until_s:
        end_s = min(float(window_at("day", zone.key, begin_s).end_s), span.until_s)
        yield Day(datetime.fromtimestamp(begin_s, zone).date().isoformat(), Span(begin_s, end_s))
        begin_s = end_s
