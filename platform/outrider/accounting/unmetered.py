"""Accounting for a gateway without a ledger: nothing is limited and nothing is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from outrider.accounting.types import Ask, RateLimits, Reservation, Settlement
from outrider.policy import Tenant

__all__ = ["Unmetered"]


@dataclass(frozen=True, slots=True)
class _Anything:
    decision_id: str
    usd: float = math.inf


class Unmetered:
    """An Accountant that grants everything."""

    async def reserve(self, ask: Ask) -> Reservation:
        return _Anything(ask.decision_id)

    async def extend(self, reservation: Reservation, more_usd: float) -> bool:
        return True

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        return None

    def release(self, reservation: Reservation) -> None:
        return None

    def limits(self, tenant: Tenant) -> RateLimits:
        return RateLimits()
