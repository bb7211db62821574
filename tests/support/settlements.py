"""Ledger rows for tests of what they add up to, beside sums made the plain way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from outrider.accounting.totals import NOTHING, Totals

__all__ = ["DAY_S", "MONDAY_S", "Call", "calls", "summed"]

MONDAY_S = 1_762_732_800.0
"""2025-11-10 00:00 UTC."""
DAY_S = 86_400.0


@dataclass(frozen=True)
class Call:
    """What tests say of a settlement; the rest follows from it."""

    time_s: float = MONDAY_S
    wall_s: float = 1.0
    tenant: str = "acme"
    team: str | None = None
    model: str = "flash"
    workflow: str | None = None
    tags: tuple[str, ...] = ()
    cost_nusd: int = 1_000
    ttft_s: float | None = 0.1
    error_code: str | None = None
    prompt_tokens: int = 10
    missed: bool = False
    more: dict[str, Any] = field(default_factory=dict, hash=False)

    def row(self, number: int) -> dict[str, Any]:
        """A row of the ledger."""
        return {
            "decision_id": f"dec-{number}",
            "request_id": f"req-{number}",
            "time_s": self.time_s,
            "charged_s": self.time_s,
            "wall_s": self.wall_s,
            "tenant": self.tenant,
            "team": self.team,
            "model": self.model,
            "policy_version": "0" * 12,
            "status": 500 if self.error_code else 200,
            "finish_reason": "error" if self.error_code else "stop",
            "limited_by": None,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.prompt_tokens // 2,
            "completion_tokens": self.prompt_tokens * 2,
            "cost_nusd": self.cost_nusd,
            "forgiven_nusd": 0,
            "cache_hit": self.prompt_tokens % 3 == 0,
            "workflow": self.workflow,
            "tags": json.dumps(self.tags),
            "ttft_s": self.ttft_s,
            "tpot_s": None,
            "ttft_missed": self.missed,
            "tpot_missed": False,
            "deadline_missed": self.missed,
            "error_code": self.error_code,
            **self.more,
        }


def summed(calls: Iterable[Call], when: Callable[[Call], bool] = lambda _: True) -> Totals:
    """The sums of those that count, one by one."""
    total = NOTHING
    for call in filter(when, calls):
        total += Totals(
            calls=1,
            errors=int(call.error_code is not None),
            cache_hits=int(call.prompt_tokens % 3 == 0),
            prompt_tokens=call.prompt_tokens,
            cached_tokens=call.prompt_tokens // 2,
            completion_tokens=call.prompt_tokens * 2,
            cost_nusd=call.cost_nusd,
            ttft_missed=int(call.missed),
            tpot_missed=0,
            deadline_missed=int(call.missed),
        )
    return total


def calls(max_size: int = 12) -> st.SearchStrategy[list[Call]]:
    """Calls within three days of MONDAY_S, some on its borders, with and without everything that may be missing."""
    quarters = st.integers(0, 3 * 96).map(lambda n: MONDAY_S + n * 900.0)
    one = st.builds(
        Call,
        time_s=quarters | st.floats(MONDAY_S, MONDAY_S + 3 * DAY_S),
        wall_s=st.floats(0.0, 5_000.0),
        tenant=st.sampled_from(["acme", "bolt"]),
        team=st.sampled_from([None, "red", "blue"]),
        model=st.sampled_from(["flash", "pro"]),
        workflow=st.sampled_from([None, "w1", "w2"]),
        tags=st.lists(st.sampled_from(["a", "b", "ü"]), max_size=2, unique=True).map(tuple),
        cost_nusd=st.integers(0, 10**12),
        ttft_s=st.none() | st.floats(0.0, 10.0),
        error_code=st.sampled_from([None, "engine_fault"]),
        prompt_tokens=st.integers(0, 10_000),
        missed=st.booleans(),
    )
    return st.lists(one, max_size=max_size)
