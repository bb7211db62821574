"""What a tenant may know of its own spend: the answer of `GET /v1/usage`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outrider.accounting.totals import Row, Span
from outrider.policy.schema import Period

__all__ = ["BudgetState", "RateState", "Usage", "UsageBucket"]


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A money budget in its present period. reserved: set aside for requests that run, and for gateways to lease from.

    account: `tenant:NAME`, or `team:NAME` where it is shared with the team's other tenants.
    """

    account: str
    period: Period
    time_zone: str
    window: Span
    limit_nusd: int
    spent_nusd: int
    reserved_nusd: int

    @property
    def remaining_nusd(self) -> int:
        """What neither was spent nor is set aside; never below 0."""
        return max(0, self.limit_nusd - self.spent_nusd - self.reserved_nusd)

    def to_json(self) -> dict[str, Any]:
        """`resets_at` is when the period ends, in seconds of the epoch."""
        return {
            "object": "budget",
            "account": self.account,
            "period": self.period,
            "time_zone": self.time_zone,
            "start_time": int(self.window.since_s),
            "resets_at": int(self.window.until_s),
            "limit_usd": self.limit_nusd / 1e9,
            "spent_usd": self.spent_nusd / 1e9,
            "reserved_usd": self.reserved_nusd / 1e9,
            "remaining_usd": self.remaining_nusd / 1e9,
        }


@dataclass(frozen=True, slots=True)
class RateState:
    """What an account may use per minute and at once; None is no limit. How much is left rides on every answer."""

    account: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return (self.requests_per_minute, self.tokens_per_minute, self.concurrency) != (None, None, None)

    def to_json(self) -> dict[str, Any]:
        """As in the policy."""
        return {
            "object": "rate_limit",
            "account": self.account,
            "requests_per_minute": self.requests_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
            "concurrency": self.concurrency,
        }


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """A part of the time asked for, by model."""

    span: Span
    by_model: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """OpenAI's bucket, with money beside tokens."""
        results = [{"object": "usage.result", "model": row.key, **row.totals.to_json()} for row in self.by_model]
        return {"object": "bucket", **self.span.to_json(), "results": results}


@dataclass(frozen=True, slots=True)
class Usage:
    """A tenant's budgets as they stand now, and what it used in a time it asked for."""

    tenant: str
    team: str | None
    span: Span
    budgets: tuple[BudgetState, ...]
    rates: tuple[RateState, ...]
    buckets: tuple[UsageBucket, ...]

    def to_json(self) -> dict[str, Any]:
        """A page as OpenAI's usage API has it (one page holds all), with budgets and rates beside `data`."""
        return {
            "object": "page",
            "tenant": self.tenant,
            "team": self.team,
            **self.span.to_json(),
            "budgets": [each.to_json() for each in self.budgets],
            "rate_limits": [each.to_json() for each in self.rates],
            "data": [each.to_json() for each in self.buckets],
            "has_more": False,
            "next_page": None,
        }
