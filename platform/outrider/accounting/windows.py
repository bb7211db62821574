"""Calendar windows of money budgets: of any period in any zone they partition time, through every change of clocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from outrider.policy import Budget
from outrider.policy.schema import Period

__all__ = ["ALWAYS", "QUARTER_S", "Window", "span_at", "window_at"]

QUARTER_S = 900
"""Every zone's offset is a multiple of it today, hence every window begins and ends at one."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `start_s` on and before `end_s`, seconds of the epoch."""

    start_s: int
    end_s: int

    def __contains__(self, time_s: float) -> bool:
        return self.start_s <= time_s < self.end_s

    def overlaps(self, other: Window) -> bool:
        return self.start_s < other.end_s and other.start_s < self.end_s

    def __and__(self, other: Window) -> Window:
        return Window(max(self.start_s, other.start_s), min(self.end_s, other.end_s))


ALWAYS = Window(0, 2**53)


def span_at(budgets: Iterable[Budget], time_s: float) -> Window:
    """The time around a moment during which no budget's window changes; ALWAYS without budgets."""
    span = ALWAYS
    for budget in budgets:
        span &= window_at(budget.period, budget.time_zone, time_s)
    return span


def window_at(period: Period, time_zone: str, time_s: float) -> Window:
    """The window that a moment lies in.

    An hour is what a wall clock there shows as one; one that a change of clocks cuts is shorter, one that is repeated
    is two. Days begin at midnight, or where clocks skip it when they do; weeks on Monday; months on the first.
    """
    return _hour(time_zone, time_s) if period == "hour" else _days(period, time_zone, time_s)


def _hour(time_zone: str, time_s: float) -> Window:
    offset_s = _offset_s(time_zone, time_s)
    start_s = int(time_s + offset_s) // 3600 * 3600 - offset_s
    same = [_offset_s(time_zone, at_s) == offset_s for at_s in range(start_s, start_s + 3600, QUARTER_S)]
    here = min(int(time_s - start_s) // QUARTER_S, 3)
    first, last = here, here
    while first > 0 and same[first - 1]:
        first -= 1
    while last < 3 and same[last + 1]:
        last += 1
    return Window(start_s + first * QUARTER_S, start_s + (last + 1) * QUARTER_S)


def _days(period: Period, time_zone: str, time_s: float) -> Window:
    label = _first_day(period, datetime.fromtimestamp(time_s, _zone(time_zone)).date())
    while time_s < _midnight_s(time_zone, label):
        label = _first_day(period, label - timedelta(days=1))
    while time_s >= _midnight_s(time_zone, _next(period, label)):
        label = _next(period, label)  # a day may have no length: Samoa had no 2011-12-30
    return Window(_midnight_s(time_zone, label), _midnight_s(time_zone, _next(period, label)))


def _first_day(period: Period, day: date) -> date:
    if period == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period == "month" else day


def _next(period: Period, first: date) -> date:
    if period == "month":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if period == "week" else 1)


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _midnight_s(time_zone: str, day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=_zone(time_zone)).timestamp())


def _offset_s(time_zone: str, time_s: float) -> int:
    offset = datetime.fromtimestamp(time_s, _zone(time_zone)).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0
