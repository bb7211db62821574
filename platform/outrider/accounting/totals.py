"""What ledger rows add up to, and how that is written for HTTP and `--json`.

The JSON takes the names of OpenAI's usage and costs API: times in whole seconds of the epoch, `num_model_requests`,
`input_tokens`, `input_cached_tokens`, `output_tokens`, `amount: {value, currency}`. Durations are in ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from outrider.errors import InvalidRequest

__all__ = ["NOTHING", "GroupBy", "Row", "Span", "Spend", "Totals", "amount"]

GroupBy = Literal["tenant", "team", "model", "tag", "day", "workflow"]
"""What spend is split by. By tag means by the tags of a request together: so every request is in one row."""

JOINT = " + "
"""Stands between the names of a key of several parts: the tags of a request, the models of a workflow."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time from `since_s` up to, and without, `until_s`: seconds of the epoch. A request is in it by its start."""

    since_s: float
    until_s: float

    def __post_init__(self) -> None:
        """Raises InvalidRequest where it would hold nothing."""
        if not self.since_s < self.until_s:
            raise InvalidRequest("the start of a time range must lie before its end", param="start_time")

    def to_json(self) -> dict[str, Any]:
        """As the API's buckets name it."""
        return {"start_time": int(self.since_s), "end_time": int(self.until_s)}


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over ledger rows. The last three count requests that missed a target in force for them."""

    calls: int = 0
    errors: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_nusd: int = 0
    ttft_missed: int = 0
    tpot_missed: int = 0
    deadline_missed: int = 0

    @property
    def cost_usd(self) -> float:
        """Dollars; the sum itself was made in whole nano-dollars."""
        return self.cost_nusd / 1e9

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.calls + other.calls,
            self.errors + other.errors,
            self.cache_hits + other.cache_hits,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost_nusd + other.cost_nusd,
            self.ttft_missed + other.ttft_missed,
            self.tpot_missed + other.tpot_missed,
            self.deadline_missed + other.deadline_missed,
        )

    def to_json(self) -> dict[str, Any]:
        """OpenAI's names where it has any."""
        return {
            "num_model_requests": self.calls,
            "num_errors": self.errors,
            "num_cache_hits": self.cache_hits,
            "input_tokens": self.prompt_tokens,
            "input_cached_tokens": self.cached_tokens,
            "output_tokens": self.completion_tokens,
            "amount": amount(self.cost_nusd),
            "missed": {"ttft": self.ttft_missed, "tpot": self.tpot_missed, "deadline": self.deadline_missed},
        }


NOTHING = Totals()


def amount(cost_nusd: int) -> dict[str, Any]:
    """Money as OpenAI's costs API writes it."""
    return {"value": cost_nusd / 1e9, "currency": "usd"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: the key is None for requests that have none (no team, no tag, no workflow)."""

    key: str | None
    totals: Totals


@dataclass(frozen=True, slots=True)
class Spend:
    """A table whose rows are disjoint and add up to its total."""

    by: GroupBy
    span: Span
    rows: tuple[Row, ...]
    total: Totals

    @staticmethod
    def of(by: GroupBy, span: Span, rows: Iterable[Row]) -> Spend:
        """The table of these rows."""
        kept = tuple(rows)
        return Spend(by, span, kept, sum((row.totals for row in kept), NOTHING))

    def to_json(self) -> dict[str, Any]:
        """The rows under the name of what they are split by."""
        return {
            "object": "spend",
            "by": self.by,
            **self.span.to_json(),
            "data": [{self.by: row.key, **row.totals.to_json()} for row in self.rows],
            "total": self.total.to_json(),
        }
