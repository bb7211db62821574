"""A gateway's one conversation with the owner: what it lacks, what it gives back, and that it is still there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from outrider.accounting.books import Books, Part, Want
from outrider.accounting.clock import Clock
from outrider.accounting.messages import Exchange, Exchanged, Need, OwnerClient, Shortage
from outrider.accounting.outbox import Outbox
from outrider.errors import (
    AccountingUnavailable,
    BudgetExhausted,
    ConcurrencyLimited,
    OutriderError,
    RateLimited,
)

__all__ = ["Exchanger"]

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""How often what is held is renewed; a lease outlives many beats."""

CALL_S = 5.0
AGAIN_S = 0.005
RECALL_ROUNDS = 20
"""So often, and so far apart, a claim asks again while other gateways give back; then it does with what there is."""

RETRY_S = (0.02, 0.5)


@dataclass(slots=True, eq=False)
class _Claim:
    """recalled: how many answers said that other gateways are giving back."""

    wants: tuple[Want, ...]
    recalled: int = 0
    taken: asyncio.Future[tuple[Part, ...]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Exchanger:
    """`run` and `attend` are tasks. One exchange is under way at a time; claims that come meanwhile share the next."""

    def __init__(self, owner: OwnerClient, books: Books, outbox: Outbox, gateway: str, clock: Clock) -> None:
        self._owner, self._books, self._outbox = owner, books, outbox
        self._gateway, self._clock = gateway, clock
        self._claims: list[_Claim] = []
        self._recalled: set[str] = set()
        self._work = asyncio.Event()
        self._epoch = self._number = 0
        self._register = False
        self._calendar = (0.0, 0.0)

    def calendar_s(self, now_s: float) -> float:
        """The owner's calendar, as far as it is known here; a little behind."""
        told_s, at_s = self._calendar
        return told_s + (now_s - at_s)

    async def obtain(self, wants: tuple[Want, ...], patience_s: float) -> tuple[Part, ...]:
        """Ask the owner for what is not here. Raises as `Accountant.reserve`."""
        claim = _Claim(wants)
        self._claims.append(claim)
        self._work.set()
        arrived = False
        try:
            parts = await asyncio.wait_for(asyncio.shield(claim.taken), patience_s)
            arrived = True
            return parts
        except TimeoutError:
            raise AccountingUnavailable("the accounting owner does not answer", retry_after_s=1.0) from None
        finally:
            if not arrived:
                self._leave(claim)

    def _leave(self, claim: _Claim) -> None:
        """Whoever waited is gone; what was taken for it and never arrived goes back."""
        if claim in self._claims:
            self._claims.remove(claim)
        if claim.taken.done() and claim.taken.exception() is None:
            self._books.release(claim.taken.result())

    async def run(self) -> None:
        while True:
            await _wait(self._work, BEAT_S)
            self._work.clear()
            if self._claims or self._recalled or not self._books.empty:
                await self._converse()

    async def attend(self) -> None:
        """Listen for what the owner wants back; an owner that cannot be heard is asked again, unhurriedly."""
        while True:
            try:
                wanted = await self._owner.attend(self._gateway)
            except OutriderError:
                await asyncio.sleep(BEAT_S)
                continue
            self._recalled.update(wanted)
            if wanted:
                self._work.set()
                await asyncio.sleep(AGAIN_S)

    async def give_back(self, accounts: Iterable[str]) -> None:
        """The last exchange of a gateway that leaves."""
        self._recalled.update(accounts)
        await self._converse()

    async def _converse(self) -> None:
        """One exchange and what follows from it; the next one soon, if claims are still open."""
        if self._register:
            await self._outbox.hold_back()
        message = self._compose()
        sent_s = self._clock.steady_s()
        answer = await self._send(message)
        if self._register:
            await self._outbox.go_on()
        self._register = not answer.known
        self._epoch = answer.epoch
        if not answer.known:
            self._work.set()
            return
        now_s = self._clock.steady_s()
        self._calendar = (answer.calendar_s, now_s)
        self._books.apply(answer, message.held or (), sent_s, now_s)
        self._serve(answer.shortages, now_s)
        if self._claims:
            await asyncio.sleep(AGAIN_S)
            self._work.set()

    def _compose(self) -> Exchange:
        """What is registered is all that is held, so such a message gives nothing back beside."""
        self._number += 1
        if self._register:
            held = self._books.held()
            return Exchange(self._gateway, self._epoch, self._number, needs=self._needs(), held=held)
        recalled = tuple(sorted(self._recalled))
        self._recalled.clear()
        backs = self._books.backs(recalled, self._clock.steady_s())
        return Exchange(self._gateway, self._epoch, self._number, backs, recalled, self._needs())

    def _needs(self) -> tuple[Need, ...]:
        new = {want.account for each in self._claims if not each.recalled for want in each.wants}
        wants = [want for each in self._claims for want in each.wants]
        return self._books.needs(wants, self._clock.steady_s(), new)

    async def _send(self, message: Exchange) -> Exchanged:
        pause_s = RETRY_S[0]
        while True:
            try:
                return await asyncio.wait_for(self._owner.exchange(message), CALL_S)
            except (OutriderError, TimeoutError):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_S[1])

    def _serve(self, shortages: Iterable[Shortage], now_s: float) -> None:
        """In order of arrival: all, or while others give back nothing yet, or less money, or the reason why not."""
        short = list(shortages)
        for claim in list(self._claims):
            taken = self._books.take(claim.wants, now_s)
            lacking = [each for want in claim.wants for each in short if each.account == want.account]
            if taken is None and any(each.recalling for each in lacking) and claim.recalled < RECALL_ROUNDS:
                claim.recalled += 1
                continue
            if taken is None:
                taken = self._books.take(claim.wants, now_s, floor=True)
            if taken is not None:
                self._claims.remove(claim)
                claim.taken.set_result(taken)
                continue
            refusal = self._refusal(claim.wants, lacking)
            if refusal is not None:
                self._claims.remove(claim)
                claim.taken.set_exception(refusal)

    def _refusal(self, wants: tuple[Want, ...], shortages: list[Shortage]) -> OutriderError | None:
        """The most lasting reason first; None if what is lacking was not reported as short."""
        reasons = [
            _reason(want, short)
            for want in wants
            for short in shortages
            if short.account == want.account and self._books.lacks(want, short.resource)
        ]
        return min(reasons, key=lambda each: _LASTING.index(type(each)), default=None)


_LASTING: tuple[type[OutriderError], ...] = (BudgetExhausted, AccountingUnavailable, ConcurrencyLimited, RateLimited)


def _reason(want: Want, short: Shortage) -> OutriderError:
    if short.unwritten:
        return AccountingUnavailable("the ledger cannot be written at the moment", retry_after_s=1.0)
    if short.resource == "permits":
        text = f"{want.account} has as many requests open as it may"
        return ConcurrencyLimited(text, retry_after_s=short.retry_after_s)
    if short.resource != "money":
        text = f"the {short.resource} per minute of {want.account} are used up"
        return RateLimited(text, retry_after_s=short.retry_after_s)
    if short.left_nusd < want.floor_nusd:
        return BudgetExhausted(f"the budget of {want.account} is spent until its next period begins")
    text = f"what is left of the budget of {want.account} is held for requests that run"
    return RateLimited(text, retry_after_s=short.retry_after_s)


async def _wait(event: asyncio.Event, longest_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), longest_s)
    except TimeoutError:
        return
