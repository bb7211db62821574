"""What each account has spent in the windows that are open now. Pure; the shell loads what `missing` names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from outrider.accounting.windows import Window, window_at
from outrider.policy import Budget

__all__ = ["Missing", "Spent"]


class Missing(NamedTuple):
    """An account's window whose sum is not known here yet."""

    account: str
    window: Window


class Spent:
    """Sums by account and window; windows that have closed are forgotten."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, dict[Window, int]] = defaultdict(dict)

    def missing(self, account: str, budgets: tuple[Budget, ...], calendar_s: float) -> Iterator[Missing]:
        sums = self._sums[account]
        for window in {window_at(each.period, each.time_zone, calendar_s) for each in budgets}:
            if window not in sums:
                yield Missing(account, window)

    def load(self, missing: Missing, nusd: int, calendar_s: float) -> None:
        """Take in a sum that the ledger gave, and forget the account's closed windows."""
        sums = self._sums[missing.account]
        for closed in [each for each in sums if each.end_s <= calendar_s]:
            del sums[closed]
        sums[missing.window] = nusd

    def charge(self, account: str, charged_s: float, nusd: int) -> None:
        sums = self._sums[account]
        for window in sums:
            if charged_s in window:
                sums[window] += nusd

    def nusd(self, account: str, window: Window) -> int:
        return self._sums[account][window]
