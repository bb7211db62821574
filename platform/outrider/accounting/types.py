"""What the gateway says to its accountant and hears from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from outrider.policy import Tenant

__all__ = [
    "Accountant",
    "Ask",
    "RateLimit",
    "RateLimits",
    "Reservation",
    "Settlement",
    "accounts_of",
    "team_account",
    "tenant_account",
]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request needs before it may run.

    predicted_usd: what it costs at the policy's quantile. floor_usd: below that it is not worth beginning (its prompt
    and one token). tokens: prompt and predicted completion; the real number is settled.
    """

    decision_id: str
    tenant: Tenant
    predicted_usd: float
    floor_usd: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of a request: one row of the ledger. See `tables/ledger.py` for units.

    time_s: start, seconds of the epoch. cost_usd: what the tenant pays for what was delivered. status: HTTP's.
    *_missed: against the targets in force, the request's own before its tier's. Raises ValueError for what no ledger
    can add up: negative, infinite, not a number.
    """

    decision_id: str
    request_id: str
    time_s: float
    wall_s: float
    tenant: str
    team: str | None
    model: str
    policy_version: str
    status: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    cached_tokens: int = 0
    finish_reason: str | None = None
    limited_by: str | None = None
    error_code: str | None = None
    cache_hit: bool = False
    workflow: str | None = None
    tags: tuple[str, ...] = ()
    ttft_s: float | None = None
    tpot_s: float | None = None
    ttft_missed: bool = False
    tpot_missed: bool = False
    deadline_missed: bool = False

    def __post_init__(self) -> None:
        numbers = (self.time_s, self.wall_s, self.cost_usd, self.ttft_s or 0.0, self.tpot_s or 0.0)
        counts = (self.prompt_tokens, self.cached_tokens, self.completion_tokens)
        if not all(math.isfinite(each) and each >= 0 for each in (*numbers, *counts)):
            raise ValueError(f"decision {self.decision_id}: a settlement's times, counts and cost are not negative")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit per minute. reset_s: until all of it is there again if nothing more is used."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The tightest of tenant and team, as last known here; None where there is no limit."""

    requests: RateLimit | None = None
    tokens: RateLimit | None = None


class Reservation(Protocol):
    """Money, tokens and a permit held for one request until `settle` or `release`."""

    @property
    def decision_id(self) -> str: ...

    @property
    def usd(self) -> float:
        """What may be delivered for in all; infinite where nobody limits it. Ask before each chunk, do not keep it.

        It grows by `extend`, and becomes 0 if the gateway has been out of the owner's reach for too long: the money
        is then somebody else's, and the answer ends at what was delivered.
        """
        ...


class Accountant(Protocol):
    """The gateway's side of accounting. One per gateway, on its event loop."""

    async def reserve(self, ask: Ask) -> Reservation:
        """Hold what a request needs. No call leaves the gateway where its lease covers it, or nothing limits it.

        If `predicted_usd` is not there but `floor_usd` is, less is held: see `Reservation.usd`. Raises
        BudgetExhausted (spent: not before the next window), RateLimited (also where the budget is held by requests in
        flight and may come free), ConcurrencyLimited, AccountingUnavailable; after any of them nothing is held.
        """
        ...

    async def extend(self, reservation: Reservation, more_usd: float) -> bool:
        """Hold that much more, all of it or nothing; False where it is not there. Never raises."""
        ...

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Write what came of it; returns when it is durable. Call it before the last chunk leaves.

        Settling a decision again changes nothing. Raises AccountingUnavailable where the owner cannot write for
        longer than the accountant's patience; the settlement stays queued and is written when it can be. A caller
        that is cancelled need do nothing more: it is queued from the call on.
        """
        ...

    def release(self, reservation: Reservation) -> None:
        """Give all of it back: nothing was delivered. After `settle` or another `release` it does nothing."""
        ...

    def limits(self, tenant: Tenant) -> RateLimits:
        """What to tell the tenant about its rates; makes no call."""
        ...


def tenant_account(name: str) -> str:
    return f"tenant:{name}"


def team_account(name: str) -> str:
    return f"team:{name}"


def accounts_of(tenant: str, team: str | None) -> tuple[str, ...]:
    """Every account that a request of the tenant is charged to."""
    return (tenant_account(tenant),) if team is None else (tenant_account(tenant), team_account(team))
