"""The accounting owner's decisions, as pure state: no clock, no database, no threads. `service.py` is the shell.

For every budget's open window: spent + leased <= limit. A gateway spends only what it was leased, so nobody overspends,
whatever is lost, repeated or late. Settlements come out of the lease of the span they were reserved in and count in its
windows. One that no lease covers (its gateway was silent for longer than a lease, or spent beyond its reservation) is
charged now, as far as the budgets reach; the rest was delivered but is forgiven, and the ledger says how much.

The calendar never goes back: after a backward jump of the clock it stands still until the clock has caught up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from outrider.accounting.holdings import Holdings, Lease
from outrider.accounting.messages import Exchange, Exchanged, Grant, Held, Need, Resource, SettleItem, Shortage
from outrider.accounting.money import MAX_NUSD, charge_nusd, reserve_nusd
from outrider.accounting.rates import Rates
from outrider.accounting.spent import Missing, Spent
from outrider.accounting.types import accounts_of
from outrider.accounting.windows import Window, span_at, window_at
from outrider.policy import Limits

__all__ = ["Charge", "OwnerCore"]

USABLE_SHARE = 2 / 3
"""Of a lease's life a gateway may begin to spend; the rest is for settling what it had begun."""

SLICES = 4
"""A gateway that asks gets at least a share of 1 / (SLICES * gateways) of what is left."""


class Charge(NamedTuple):
    """What a settlement came to: charged_s says in which windows it counts."""

    charged_s: float
    cost_nusd: int
    forgiven_nusd: int


class OwnerCore:
    """Call `tick` before everything else, then `missing` and `load`: sums of open windows must be known."""

    def __init__(
        self,
        limits_of: Callable[[str], Limits],
        *,
        epoch: int,
        lease_s: float,
        leases: Mapping[Lease, int],
        recent: Mapping[tuple[str, Resource], int],
        calendar_s: float,
        steady_s: float,
    ) -> None:
        """recent: requests and tokens of the last minute by account. Leases that nobody claims last one lease_s."""
        self.epoch, self.lease_s = epoch, lease_s
        self.calendar_s, self.steady_s = calendar_s, steady_s
        self.holdings = Holdings(leases)
        self.spent = Spent()
        self._limits_of = limits_of
        self._heard_s = dict.fromkeys(self.holdings.gateways(), steady_s)
        self._registered: set[str] = set()
        self._recalls: defaultdict[str, set[str]] = defaultdict(set)
        self._rates = Rates(recent, steady_s)

    def tick(self, wall_s: float, steady_s: float) -> None:
        """Bring it to a moment, and take back what silent gateways held."""
        self.calendar_s = max(self.calendar_s, wall_s)
        self.steady_s = max(self.steady_s, steady_s)
        for gateway in [each for each, at_s in self._heard_s.items() if self.steady_s - at_s > self.lease_s]:
            self._forget(gateway)

    def missing(self, accounts: Iterable[str]) -> list[Missing]:
        """Windows whose sums must be loaded before these accounts are granted or charged anything."""
        return [
            each
            for account in set(accounts)
            for each in self.spent.missing(account, self._limits_of(account).budgets, self.calendar_s)
        ]

    def load(self, missing: Missing, nusd: int) -> None:
        self.spent.load(missing, nusd, self.calendar_s)

    def recalls(self, gateway: str) -> tuple[str, ...]:
        """Accounts whose unused part it should give back."""
        return tuple(sorted(self._recalls[gateway]))

    def recall_overdrawn(self) -> None:
        """Ask back what is held beyond limits that were lowered; their windows must have been loaded."""
        for account in self.holdings.accounts():
            limits = self._limits_of(account)
            over = limits.concurrency is not None and self.holdings.permits(account) > limits.concurrency
            if over or (limits.budgets and self.available_nusd(account) < 0):
                for gateway in self.holdings.holders(account) & self._registered:
                    self._recalls[gateway].add(account)

    def gateways(self) -> tuple[str, ...]:
        """All that are alive and said what they hold."""
        return tuple(sorted(self._registered))

    # -- exchanges

    def exchange(self, message: Exchange, *, writable: bool = True) -> Exchanged:
        """Take back, then grant. What is granted must be durable before the answer leaves; else `undo` it."""
        known = message.epoch == self.epoch and (message.gateway in self._registered or message.held is not None)
        if not known:
            return self._answer(known=False)
        kept = self._register(message.gateway, message.held) if message.held is not None else ()
        self._heard_s[message.gateway] = self.steady_s
        self._take_back(message)
        grants, shortages = [], []
        for need in message.needs:
            grant, short = self._grant(message.gateway, need, writable=writable)
            grants.append(grant)
            shortages.extend(short)
        return self._answer(known=True, grants=tuple(grants), shortages=tuple(shortages), kept=kept)

    def undo(self, gateway: str, grants: Iterable[Grant]) -> None:
        """What was granted could not be written."""
        for grant in grants:
            self.holdings.add(Lease(gateway, grant.account, "money", grant.span), -grant.money_nusd)
            self.holdings.add(Lease(gateway, grant.account, "permits"), -grant.permits)
            self._give_rate(grant.account, "requests", grant.requests)
            self._give_rate(grant.account, "tokens", grant.tokens)

    def _answer(
        self,
        *,
        known: bool,
        grants: tuple[Grant, ...] = (),
        shortages: tuple[Shortage, ...] = (),
        kept: tuple[Held, ...] = (),
    ) -> Exchanged:
        usable_s = self.lease_s * USABLE_SHARE
        return Exchanged(self.epoch, known, usable_s, self.calendar_s, grants, shortages, kept)

    def _register(self, gateway: str, held: tuple[Held, ...]) -> tuple[Held, ...]:
        """Money is kept as far as it is known to be the gateway's; requests that run keep their permits in any case."""
        kept: dict[Lease, int] = {}
        for each in held:
            money = Lease(gateway, each.account, "money", each.span)
            kept[money] = min(each.money_nusd, self.holdings.amount(money))
            permits = Lease(gateway, each.account, "permits")
            kept[permits] = kept.get(permits, 0) + each.permits
        for lease in {*self.holdings.leases_of(gateway), *kept}:
            self.holdings.add(lease, kept.get(lease, 0) - self.holdings.amount(lease))
        self._registered.add(gateway)
        return tuple(
            Held(lease.account, lease.span, money_nusd=amount)
            for lease, amount in kept.items()
            if lease.kind == "money"
        )

    def _take_back(self, message: Exchange) -> None:
        for back in message.backs:
            self.holdings.add(Lease(message.gateway, back.account, "money", back.span), -back.money_nusd)
            self.holdings.add(Lease(message.gateway, back.account, "permits"), -back.permits)
            self._give_rate(back.account, "requests", back.requests)
            self._give_rate(back.account, "tokens", back.tokens)
        for account in message.recalled:
            self._recalls[message.gateway].discard(account)

    def _grant(self, gateway: str, need: Need, *, writable: bool) -> tuple[Grant, list[Shortage]]:
        limits, short = self._limits_of(need.account), []
        span = span_at(limits.budgets, self.calendar_s)
        money = permits = 0
        if not writable:
            wanted: list[tuple[Resource, int]] = [("money", need.money_nusd), ("permits", need.permits)]
            short = [Shortage(need.account, each, unwritten=True) for each, amount in wanted if amount]
        else:
            money = self._grant_money(gateway, need, limits)
            permits = self._grant_permits(gateway, need, limits)
            self.holdings.add(Lease(gateway, need.account, "money", span), money)
            self.holdings.add(Lease(gateway, need.account, "permits"), permits)
            if money < need.money_nusd:
                left_nusd = min(self._left_nusd(need.account, limits), MAX_NUSD)
                short.append(Shortage(need.account, "money", self._recall(need, gateway), left_nusd=left_nusd))
            if permits < need.permits:
                short.append(Shortage(need.account, "permits", self._recall(need, gateway)))
        requests = self._grant_rate(need.account, "requests", need.requests, short)
        tokens = self._grant_rate(need.account, "tokens", need.tokens, short)
        left = [self._level(need.account, "requests"), self._level(need.account, "tokens")]
        span_left_s = span.end_s - self.calendar_s
        return Grant(need.account, span, span_left_s, money, permits, requests, tokens, *left), short

    def _grant_money(self, gateway: str, need: Need, limits: Limits) -> int:
        if not limits.budgets or not need.money_nusd:
            return need.money_nusd
        available = max(0, self.available_nusd(need.account))
        return min(available, max(need.money_nusd, available // self._shares()))

    def _grant_permits(self, gateway: str, need: Need, limits: Limits) -> int:
        if limits.concurrency is None or not need.permits:
            return need.permits
        available = max(0, limits.concurrency - self.holdings.permits(need.account))
        return min(available, max(need.permits, available // self._shares()))

    def _grant_rate(self, account: str, resource: Resource, want: int, short: list[Shortage]) -> int:
        bucket = self._rates.bucket(account, resource, self._limits_of(account), self.steady_s)
        if bucket is None or not want:
            return want
        granted = bucket.take(want, 1 / self._shares())
        if granted < want:
            short.append(Shortage(account, resource, retry_after_s=bucket.wait_s(want - granted)))
        return granted

    # -- settlements

    def charge(self, gateway: str, item: SettleItem) -> Charge:
        """Book a settlement that is not a repetition; its row must be written, sooner or later."""
        settlement, spans = item.settlement, dict(item.spans)
        cost_nusd = charge_nusd(settlement.cost_usd)
        accounts = accounts_of(settlement.tenant, settlement.team)
        budgeted = [account for account in accounts if self._limits_of(account).budgets]
        leases = [Lease(gateway, account, "money", span) for account, span in spans.items()]
        covered = spans.keys() >= set(budgeted) and all(self.holdings.amount(each) >= cost_nusd for each in leases)
        for lease in leases:
            self.holdings.add(lease, -min(cost_nusd, self.holdings.amount(lease)))
        if covered:
            charged_s = _within(item.charged_s or self.calendar_s, spans.values(), self.calendar_s)
            paid_nusd = cost_nusd
        else:
            charged_s = self.calendar_s
            paid_nusd = max(0, min([cost_nusd, *(self.available_nusd(account) for account in budgeted)]))
        for account in accounts:
            self.spent.charge(account, charged_s, paid_nusd)
        return Charge(charged_s, paid_nusd, cost_nusd - paid_nusd)

    # -- what is left

    def available_nusd(self, account: str) -> int:
        """What can be leased of an account's budgets; below 0 after a limit was lowered."""
        return min(
            reserve_nusd(each.limit_usd) - self.spent.nusd(account, window) - self.holdings.money_nusd(account, window)
            for each in self._limits_of(account).budgets
            for window in [window_at(each.period, each.time_zone, self.calendar_s)]
        )

    def _left_nusd(self, account: str, limits: Limits) -> int:
        """What is not spent, leased or not."""
        return min(
            (
                reserve_nusd(each.limit_usd)
                - self.spent.nusd(account, window_at(each.period, each.time_zone, self.calendar_s))
                for each in limits.budgets
            ),
            default=MAX_NUSD,
        )

    def _shares(self) -> int:
        return SLICES * max(2, len(self._registered))

    def _recall(self, need: Need, asker: str) -> bool:
        """Ask the others for what they do not use; False once all that were asked have answered."""
        if need.recall:
            for gateway in self.holdings.holders(need.account) & self._registered - {asker}:
                self._recalls[gateway].add(need.account)
        return any(need.account in self._recalls[gateway] for gateway in self._registered - {asker})

    def _level(self, account: str, resource: Resource) -> float:
        bucket = self._rates.bucket(account, resource, self._limits_of(account), self.steady_s)
        return bucket.level if bucket is not None else 0.0

    def _give_rate(self, account: str, resource: Resource, amount: int) -> None:
        bucket = self._rates.bucket(account, resource, self._limits_of(account), self.steady_s)
        if bucket is not None:
            bucket.give(amount)

    def _forget(self, gateway: str) -> None:
        self.holdings.drop(gateway)
        self._registered.discard(gateway)
        del self._heard_s[gateway]
        self._recalls.pop(gateway, None)


def _within(time_s: float, spans: Iterable[Window], latest_s: float) -> float:
    """The moment, or the next one to it that lies in all spans and is not to come."""
    return min(latest_s, max([time_s, *(span.start_s for span in spans)]), *(span.end_s - 1 for span in spans))
