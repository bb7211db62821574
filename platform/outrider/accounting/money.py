"""Money is whole nano-dollars inside (`_nusd`) and dollars at the edges (`_usd`): sums of a ledger are exact."""

from __future__ import annotations

import math

__all__ = ["MAX_NUSD", "charge_nusd", "reserve_nusd", "to_usd"]

NUSD_PER_USD = 1_000_000_000

MAX_NUSD = 2**62
"""More than any budget of the policy (a billion dollars); sums of two still fit the database's integers."""


def reserve_nusd(usd: float) -> int:
    """What must be held to pay `usd`: rounded up, so that a price below a nano-dollar is never free to hold."""
    return _bounded(math.ceil(_scaled(usd) - 1e-3))


def charge_nusd(usd: float) -> int:
    """What `usd` costs: the nearest nano-dollar, hence never more than `reserve_nusd` of as much."""
    return _bounded(round(_scaled(usd)))


def to_usd(nusd: int) -> float:
    return nusd / NUSD_PER_USD


def _scaled(usd: float) -> float:
    if not math.isfinite(usd) or usd < 0:
        raise ValueError(f"{usd!r} is not an amount of money")
    return usd * NUSD_PER_USD


def _bounded(nusd: int) -> int:
    return min(max(nusd, 0), MAX_NUSD)
