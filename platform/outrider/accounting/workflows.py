"""Requests that bear one workflow id as one thing: what it took, what became of it, what a completed one costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from outrider.accounting.totals import NOTHING, Row, Span, Totals
from outrider.errors import InvalidRequest

__all__ = ["Cohort", "Outcome", "OutcomeReport", "Share", "Status", "Workflow", "WorkflowKey", "WorkflowSpend"]

Outcome = Literal["success", "failure", "abandoned"]
"""What a tenant says became of a workflow."""

WorkflowKey = Literal["tenant", "team", "tag", "model"]
"""What workflows are split by: their tenant, or all the teams, tags or models of their requests together."""

Status = Literal["success", "failure", "abandoned", "unreported"]

MAX_NOTE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class OutcomeReport:
    """What a tenant reports. value: what the result is worth, in a unit of the tenant's own."""

    outcome: Outcome
    value: float | None = None
    note: str | None = None
    time_s: float | None = None
    """When the report came; None in one that is on its way."""

    def __post_init__(self) -> None:
        """Raises InvalidRequest naming the field."""
        if self.outcome not in get_args(Outcome):
            raise InvalidRequest("'outcome' must be one of success, failure, abandoned", param="outcome")
        if self.value is not None and not math.isfinite(self.value):
            raise InvalidRequest("'value' must be a finite number", param="value")
        if self.note is not None and len(self.note) > MAX_NOTE_CHARACTERS:
            raise InvalidRequest(f"'note' may have {MAX_NOTE_CHARACTERS} characters", param="note")

    def to_json(self) -> dict[str, Any]:
        """As it was reported, with its time."""
        time_s = None if self.time_s is None else int(self.time_s)
        return {"outcome": self.outcome, "value": self.value, "note": self.note, "reported_at": time_s}


@dataclass(frozen=True, slots=True)
class Workflow:
    """All requests of a tenant under one id, from the first one's start to the last one's end.

    busy_s: how long at least one of its requests ran. ttft: nearest-rank quantiles over answers that began; None
    without any. reports: every outcome reported, newest first; the newest counts.
    """

    tenant: str
    id: str
    start_s: float
    end_s: float
    busy_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    by_model: tuple[Row, ...]
    reports: tuple[OutcomeReport, ...] = ()

    @property
    def status(self) -> Status:
        """What the last report says."""
        return self.reports[0].outcome if self.reports else "unreported"

    @property
    def totals(self) -> Totals:
        """Over all models."""
        return sum((row.totals for row in self.by_model), NOTHING)

    def to_json(self) -> dict[str, Any]:
        """`status` and `outcome` are of the last report; durations are in ms."""
        results = [{"object": "usage.result", "model": row.key, **row.totals.to_json()} for row in self.by_model]
        return {
            "object": "workflow",
            "id": self.id,
            "tenant": self.tenant,
            "status": self.status,
            "start_time": int(self.start_s),
            "end_time": int(self.end_s),
            "wall_ms": (self.end_s - self.start_s) * 1e3,
            "busy_ms": self.busy_s * 1e3,
            "ttft_ms": {"p50": _ms(self.ttft_p50_s), "p95": _ms(self.ttft_p95_s)},
            **self.totals.to_json(),
            "results": results,
            "outcome": self.reports[0].to_json() if self.reports else None,
            "earlier_outcomes": [each.to_json() for each in self.reports[1:]],
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


@dataclass(frozen=True, slots=True)
class Share:
    """Workflows of one status: how many, what they used, the sum of the values reported for them."""

    workflows: int = 0
    totals: Totals = NOTHING
    value: float = 0.0

    def __add__(self, other: Share) -> Share:
        return Share(self.workflows + other.workflows, self.totals + other.totals, self.value + other.value)

    def to_json(self) -> dict[str, Any]:
        """Counts and sums."""
        return {"workflows": self.workflows, "value": self.value, **self.totals.to_json()}


@dataclass(frozen=True, slots=True)
class Cohort:
    """Workflows with one key, by status. What nobody reported on is shown and counts in no figure."""

    key: str | None
    shares: Mapping[Status, Share]

    @property
    def usd_per_success(self) -> float | None:
        """Dollars of every workflow that ended, failed and abandoned ones too, per one that succeeded; None without."""
        successes = self.share("success").workflows
        ended = (self.share("success"), self.share("failure"), self.share("abandoned"))
        return sum(each.totals.cost_nusd for each in ended) / successes / 1e9 if successes else None

    @property
    def success_usd(self) -> float | None:
        """Mean dollars of those that succeeded alone: what a success would cost if nothing ever failed."""
        share = self.share("success")
        return share.totals.cost_usd / share.workflows if share.workflows else None

    def share(self, status: Status) -> Share:
        """Those of a status; nothing where there are none."""
        return self.shares.get(status, Share())

    @property
    def all(self) -> Share:
        """Over every status."""
        return sum(self.shares.values(), Share())

    def to_json(self) -> dict[str, Any]:
        """Every status appears."""
        return {
            "key": self.key,
            "usd_per_success": self.usd_per_success,
            "success_usd": self.success_usd,
            **{status: self.share(status).to_json() for status in get_args(Status)},
        }


@dataclass(frozen=True, slots=True)
class WorkflowSpend:
    """Workflows whose first request started in a time, split by a key that each of them has once."""

    by: WorkflowKey
    span: Span
    cohorts: tuple[Cohort, ...]
    dearest: tuple[Workflow, ...] = ()
    """Those that cost most, one by one."""

    @property
    def total(self) -> Cohort:
        """All of them as one."""
        shares: dict[Status, Share] = {}
        for cohort in self.cohorts:
            for status, share in cohort.shares.items():
                shares[status] = shares.get(status, Share()) + share
        return Cohort(None, shares)

    def to_json(self) -> dict[str, Any]:
        """The cohorts under the name of what they are split by."""
        rows: Iterable[dict[str, Any]] = (cohort.to_json() for cohort in self.cohorts)
        return {
            "object": "workflow_spend",
            "by": self.by,
            **self.span.to_json(),
            "data": [{self.by: row.pop("key"), **row} for row in rows],
            "total": {name: value for name, value in self.total.to_json().items() if name != "key"},
            "workflows": [each.to_json() for each in self.dearest],
        }
