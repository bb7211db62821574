"""What operators ask of the ledger: checked values, the same from the command line and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from outrider.accounting.totals import GroupBy, Span
from outrider.accounting.workflows import WorkflowKey
from outrider.errors import InvalidRequest

__all__ = ["Only", "SpendQuery", "WorkflowQuery", "zone_called"]

MAX_TOP = 1000


@dataclass(frozen=True, slots=True)
class Only:
    """The only tenant, team or workflow that counts; None is all of them. A team is that of each request."""

    tenant: str | None = None
    team: str | None = None
    workflow: str | None = None

    @property
    def columns(self) -> Mapping[str, str]:
        """Column of the ledger → the value that counts."""
        given = {"tenant": self.tenant, "team": self.team, "workflow": self.workflow}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SpendQuery:
    """What was spent in a span, by what. time_zone: whose calendar days are made of."""

    span: Span
    by: GroupBy = "tenant"
    only: Only = Only()
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        """Raises InvalidRequest naming the field."""
        _check_choice(self.by, get_args(GroupBy))
        zone_called(self.time_zone)


@dataclass(frozen=True, slots=True)
class WorkflowQuery:
    """What workflows begun in a span cost, by what; `top` of them, the dearest, one by one."""

    span: Span
    by: WorkflowKey = "tenant"
    only: Only = Only()
    top: int = 10

    def __post_init__(self) -> None:
        """Raises InvalidRequest naming the field."""
        _check_choice(self.by, get_args(WorkflowKey))
        if not 0 <= self.top <= MAX_TOP:
            raise InvalidRequest(f"'top' must lie between 0 and {MAX_TOP}", param="top")


def _check_choice(by: str, known: tuple[str, ...]) -> None:
    if by not in known:
        raise InvalidRequest(f"'by' must be one of {', '.join(known)}", param="by")


def zone_called(name: str) -> ZoneInfo:
    """The time zone of a name. Raises InvalidRequest."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        text = f"no time zone is called {name[:64]!r}; names look like Europe/Berlin"
        raise InvalidRequest(text, param="time_zone") from None
