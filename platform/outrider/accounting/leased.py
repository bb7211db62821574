"""The accountant of a gateway that spends out of leases: a request that its lease covers makes no call."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from outrider.accounting.books import Books, Part, Want
from outrider.accounting.clock import Clock, SystemClock
from outrider.accounting.exchanger import Exchanger
from outrider.accounting.messages import OwnerClient, Resource, SettleItem
from outrider.accounting.money import charge_nusd, reserve_nusd, to_usd
from outrider.accounting.outbox import Letter, Outbox
from outrider.accounting.types import Ask, RateLimit, RateLimits, Reservation, Settlement, team_account, tenant_account
from outrider.errors import AccountingUnavailable, OutriderError
from outrider.policy import Limits, Policy, Tenant

__all__ = ["LeasedAccountant"]


@dataclass(slots=True, eq=False)
class _Hold:
    """A Reservation. parts: what it holds of each account that limits it; money is the same amount in all of them."""

    accountant: LeasedAccountant
    decision_id: str
    parts: tuple[Part, ...]
    budgeted: tuple[str, ...]
    charged_s: float | None
    letter: Letter | None = None
    released: bool = field(default=False)

    @property
    def usd(self) -> float:
        return self.accountant.usable_usd(self)

    def money(self) -> list[Part]:
        return [part for part in self.parts if part.account in self.budgeted]


class LeasedAccountant:
    """An Accountant. Everything happens on the event loop of the first call; `close` when the gateway stops.

    What happens without the owner: for two thirds of a lease (20 s) requests run on what is leased, and those that it
    does not cover wait `patience_s`, then are refused AccountingUnavailable; after that the money of running requests
    is no longer theirs (`Reservation.usd` is 0) and their answers end. What nothing limits goes on. Settlements are
    kept until they are written; `settle` raises AccountingUnavailable after `settle_patience_s`.
    """

    def __init__(
        self,
        owner: OwnerClient,
        policy: Callable[[], Policy],
        *,
        gateway: str | None = None,
        clock: Clock | None = None,
        patience_s: float = 2.0,
        settle_patience_s: float = 30.0,
    ) -> None:
        """gateway: a name that no other process has or had, by default a random one."""
        self._policy = policy
        self._clock = clock or SystemClock()
        self._patience_s, self._settle_patience_s = patience_s, settle_patience_s
        name = gateway or f"gateway-{uuid.uuid4().hex}"
        self._books = Books()
        self._outbox = Outbox(owner, name)
        self._exchanger = Exchanger(owner, self._books, self._outbox, name, self._clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._settling: set[asyncio.Task[None]] = set()

    async def reserve(self, ask: Ask) -> Reservation:
        """See Accountant."""
        limits = self._limits(ask.tenant)
        wants = tuple(want for want in (_want(ask, *each) for each in limits) if want is not None)
        budgeted = tuple(account for account, each in limits if each.budgets)
        parts = self._books.take(wants, self._clock.steady_s()) if wants else ()
        if parts is None:
            self._start()
            parts = await self._exchanger.obtain(wants, self._patience_s)
        charged_s = self._exchanger.calendar_s(self._clock.steady_s()) if budgeted else None
        return _Hold(self, ask.decision_id, parts, budgeted, charged_s)

    async def extend(self, reservation: Reservation, more_usd: float) -> bool:
        """See Accountant. A request that outlives a window is paid out of the next one, wholly."""
        hold, now_s = _own(reservation), self._clock.steady_s()
        money = hold.money()
        if not hold.budgeted:
            return True
        if hold.released or hold.letter is not None or self._unusable(hold, now_s):
            return False
        more_nusd = reserve_nusd(more_usd)
        wants = tuple(_more(part, more_nusd, same=self._books.span(part.account, now_s) == part.span) for part in money)
        try:
            parts = self._books.take(wants, now_s) or await self._exchanger.obtain(wants, self._patience_s)
        except OutriderError:
            return False
        changed = {part.account for part, more in zip(money, parts, strict=True) if part.span != more.span}
        asked = {want.account for part, want in zip(money, wants, strict=True) if want.money_nusd > more_nusd}
        if changed - asked or hold.released or hold.letter is not None:
            self._books.release(parts)
            return False
        for part, more in zip(money, parts, strict=True):
            self._books.merge(part, more)
        if changed:
            hold.charged_s = self._exchanger.calendar_s(self._clock.steady_s())
        return True

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """See Accountant."""
        hold = _own(reservation)
        if settlement.decision_id != hold.decision_id:
            raise ValueError(f"decision {settlement.decision_id} is settled on the reservation of {hold.decision_id}")
        if hold.letter is None:
            self._start()
            spans = tuple((part.account, part.span) for part in hold.money())
            hold.letter = Letter(SettleItem(settlement, spans, hold.charged_s))
            delivery = asyncio.create_task(self._deliver(hold, hold.letter))
            self._settling.add(delivery)
            delivery.add_done_callback(self._settling.discard)
        try:
            await asyncio.wait_for(asyncio.shield(hold.letter.done), self._settle_patience_s)
        except TimeoutError:
            text = "the ledger could not be written; the request is kept and written when that is possible"
            raise AccountingUnavailable(text, retry_after_s=1.0) from None

    async def _deliver(self, hold: _Hold, letter: Letter) -> None:
        """Whoever waits for it or not: in the end it is written, and then what was not spent is free."""
        settlement = letter.item.settlement
        await self._outbox.put(letter)
        await letter.done
        if not hold.released:
            tokens = settlement.prompt_tokens + settlement.completion_tokens
            self._books.settle(hold.parts, charge_nusd(settlement.cost_usd), tokens)

    def release(self, reservation: Reservation) -> None:
        """See Accountant."""
        hold = _own(reservation)
        if hold.letter is None and not hold.released:
            hold.released = True
            self._books.release(hold.parts)

    def limits(self, tenant: Tenant) -> RateLimits:
        """See Accountant."""
        requests, tokens = [], []
        for account, limits in self._limits(tenant):
            if limits.requests_per_minute is not None:
                requests.append(self._rate(account, "requests", limits.requests_per_minute))
            if limits.tokens_per_minute is not None:
                tokens.append(self._rate(account, "tokens", limits.tokens_per_minute))
        return RateLimits(min(requests, key=_tightness, default=None), min(tokens, key=_tightness, default=None))

    def _rate(self, account: str, resource: Resource, limit: int) -> RateLimit:
        left = self._books.rate(account, resource, limit, self._clock.steady_s())
        remaining = limit if left is None else max(0, min(limit, int(left)))
        return RateLimit(limit, remaining, (limit - remaining) * 60.0 / limit)

    async def close(self, patience_s: float = 5.0) -> None:
        """Wait for open settlements, give everything back, stop. What the owner does not hear of lapses by itself."""
        if not self._tasks:
            return
        try:
            async with asyncio.timeout(patience_s):
                await self._outbox.emptied()
                self._tasks[0].cancel()
                await self._exchanger.give_back(self._books.accounts())
        except TimeoutError:
            pass
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def usable_usd(self, hold: _Hold) -> float:
        """What a reservation may spend at this moment."""
        if not hold.budgeted:
            return math.inf
        if self._unusable(hold, self._clock.steady_s()):
            return 0.0
        return to_usd(min((part.money_nusd for part in hold.money()), default=0))

    def _unusable(self, hold: _Hold, now_s: float) -> bool:
        return self._books.lapsed(now_s) or any(part.void for part in hold.parts)

    def _limits(self, tenant: Tenant) -> list[tuple[str, Limits]]:
        """Of the tenant, under the policy that admitted it, and of its team now."""
        team = self._policy().teams.get(tenant.team) if tenant.team is not None else None
        own = [(tenant_account(tenant.name), tenant.limits)]
        return own + ([(team_account(team.name), team.limits)] if team is not None else [])

    def _start(self) -> None:
        if not self._tasks:
            work = (self._exchanger.run(), self._exchanger.attend(), self._outbox.run())
            self._tasks = [asyncio.create_task(each) for each in work]


def _own(reservation: Reservation) -> _Hold:
    if not isinstance(reservation, _Hold):
        raise TypeError("this reservation is another accountant's")
    return reservation


def _want(ask: Ask, account: str, limits: Limits) -> Want | None:
    """None where nothing limits the account. A request larger than a whole minute's tokens waits for a full bucket."""
    tokens = limits.tokens_per_minute
    want = Want(
        account,
        reserve_nusd(max(ask.predicted_usd, ask.floor_usd)) if limits.budgets else 0,
        reserve_nusd(ask.floor_usd) if limits.budgets else 0,
        int(limits.concurrency is not None),
        int(limits.requests_per_minute is not None),
        min(ask.tokens, tokens) if tokens is not None else 0,
    )
    return want if want != Want(account) or limits.budgets else None


def _more(part: Part, more_nusd: int, *, same: bool) -> Want:
    nusd = more_nusd if same else part.money_nusd + more_nusd
    return Want(part.account, nusd, nusd)


def _tightness(rate: RateLimit) -> float:
    return rate.remaining / rate.limit
