"""Who holds what: leases of money by span, and permits. Pure; the shell writes what `changed` names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from outrider.accounting.windows import ALWAYS, Window

__all__ = ["Holdings", "Lease"]


class Lease(NamedTuple):
    """Key of one amount. span: of money, when it may be reserved; ALWAYS for permits and where no budget limits."""

    gateway: str
    account: str
    kind: Literal["money", "permits"]
    span: Window = ALWAYS


class Holdings:
    """Amounts are never negative, and a lease of nothing is no lease."""

    def __init__(self, amounts: Mapping[Lease, int]) -> None:
        self._of_account: defaultdict[str, dict[Lease, int]] = defaultdict(dict)
        self._of_gateway: defaultdict[str, set[Lease]] = defaultdict(set)
        self.changed: set[Lease] = set()
        for lease, amount in amounts.items():
            self.add(lease, amount)
        self.changed.clear()

    def amount(self, lease: Lease) -> int:
        return self._of_account[lease.account].get(lease, 0)

    def add(self, lease: Lease, more: int) -> None:
        """Grow or (negative) shrink; below nothing is nothing."""
        held = self._of_account[lease.account]
        amount = max(0, held.get(lease, 0) + more)
        if amount:
            held[lease] = amount
            self._of_gateway[lease.gateway].add(lease)
        else:
            held.pop(lease, None)
            self._of_gateway[lease.gateway].discard(lease)
        self.changed.add(lease)

    def leases_of(self, gateway: str) -> tuple[Lease, ...]:
        return tuple(self._of_gateway[gateway])

    def gateways(self) -> tuple[str, ...]:
        """All that hold anything."""
        return tuple(gateway for gateway, leases in self._of_gateway.items() if leases)

    def accounts(self) -> tuple[str, ...]:
        """All that anything is held of."""
        return tuple(account for account, leases in self._of_account.items() if leases)

    def holders(self, account: str) -> set[str]:
        return {lease.gateway for lease in self._of_account[account]}

    def money_nusd(self, account: str, window: Window) -> int:
        """Leased out of a window. A span lies in one, or it is older than the budget and counts in all it touches."""
        held = self._of_account[account].items()
        return sum(amount for lease, amount in held if lease.kind == "money" and lease.span.overlaps(window))

    def permits(self, account: str) -> int:
        return sum(amount for lease, amount in self._of_account[account].items() if lease.kind == "permits")

    def drop(self, gateway: str) -> None:
        """It is dead, or was silent for as long."""
        for lease in self.leases_of(gateway):
            self.add(lease, -self.amount(lease))
        del self._of_gateway[gateway]

    def changes(self) -> dict[Lease, int]:
        """Leases to be written, with their present amounts; clears nothing."""
        return {lease: self.amount(lease) for lease in self.changed}

    def written(self, leases: Iterable[Lease]) -> None:
        self.changed.difference_update(leases)
