"""The accounting owner as it runs in the control process: turns of `OwnerCore`, each durable before it is answered.

A turn takes all that has come in meanwhile: it looks up what it must know, lets the core decide, writes everything in
one transaction (group commit), and only then answers. So whoever has an answer can rely on it through `kill -9`:

- a `settle` that returned is a row of the ledger, counted in its windows;
- a grant that returned is a lease on the disk, and no later owner grants that money again.

While the database cannot be written (full, locked, away) settlements wait and are tried again until they are written,
requests that need money or a permit are refused AccountingUnavailable, rates go on, and it recovers by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from outrider.accounting.clock import Clock, SystemClock
from outrider.accounting.ledger import Ledger, Row
from outrider.accounting.messages import Charged, Exchange, Exchanged, Grant, Settle, Settled, SettleItem, Shortage
from outrider.accounting.owner import Charge, OwnerCore
from outrider.accounting.types import accounts_of
from outrider.database import Database
from outrider.errors import AccountingUnavailable, DatabaseError
from outrider.policy import Limits, Policy

__all__ = ["AccountingOwner"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_ROWS = 512
"""Of one transaction."""

ATTEND_S = 5.0
"""How long an `attend` waits for something to say."""

BEAT_S = 1.0
"""The longest time between turns, so that the leases of dead gateways come back."""

RETRY_S = (0.05, 1.0)
"""First and longest wait before a transaction that failed is tried again."""


@dataclass(slots=True, eq=False)
class _Open:
    """A settlement that is not durable yet; charge: what it came to, once the core has booked it."""

    gateway: str
    item: SettleItem
    done: asyncio.Future[bool]
    charge: Charge | None = None


@dataclass(slots=True, eq=False)
class _Asked:
    message: Exchange
    done: asyncio.Future[Exchanged] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class AccountingOwner:
    """An OwnerClient for gateways of its own process; others reach it by a transport that calls these methods."""

    def __init__(
        self,
        database: Database,
        policy: Callable[[], Policy],
        *,
        clock: Clock | None = None,
        lease_s: float = 30.0,
    ) -> None:
        self._ledger = Ledger(database)
        self._policy = policy
        self._clock = clock or SystemClock()
        self._lease_s = lease_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._core: OwnerCore | None = None
        self._task: asyncio.Task[None] | None = None
        self._work = asyncio.Event()
        self._asked: list[_Asked] = []
        self._answers: dict[str, _Asked] = {}
        self._open: dict[str, _Open] = {}
        self._recalled: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._failing = False
        self._closing = False
        self._ruled_by = ""
        """Version of the policy whose limits all leases were held against."""

    async def start(self) -> None:
        """Take over the database. Raises DatabaseError."""
        start = await self._on_disk(self._ledger.take_over, self._clock.wall_s())
        ahead_s = start.calendar_s - self._clock.wall_s()
        if ahead_s > 60:
            log.warning(
                "the clock is %.0f s behind the ledger's calendar, which waits for it: windows close late. "
                "If the clock was wrong before, set calendar_s of table accounting_owner and restart",
                ahead_s,
            )
        self._core = OwnerCore(
            self._limits_of,
            epoch=start.epoch,
            lease_s=self._lease_s,
            leases=start.leases,
            recent=start.recent,
            calendar_s=start.calendar_s,
            steady_s=self._clock.steady_s(),
        )
        self._task = asyncio.create_task(self._turns(self._core))

    def policy_changed(self) -> None:
        """Look at once whether more is leased than the policy allows now; else it is seen within BEAT_S."""
        self._work.set()

    async def close(self) -> None:
        """Write what is open, if it can be written now, and stop."""
        self._closing = True
        self._work.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_all()
        self._thread.shutdown()

    @property
    def running(self) -> bool:
        """False before `start`, after `close`, and once another owner has taken over the database."""
        return self._task is not None and not self._task.done()

    # -- what gateways call

    async def exchange(self, exchange: Exchange) -> Exchanged:
        """See messages.py. Raises AccountingUnavailable after `close`."""
        self._check_running()
        last = self._answers.get(exchange.gateway)
        if last is None or last.message != exchange:
            last = self._answers[exchange.gateway] = _Asked(exchange)
            self._asked.append(last)
            self._work.set()
        return await asyncio.shield(last.done)

    async def settle(self, settle: Settle) -> Settled:
        """Returns when all items are durable, however long that takes. Raises AccountingUnavailable after `close`."""
        self._check_running()
        waiting = []
        for item in settle.items:
            decision_id = item.settlement.decision_id
            opened = self._open.get(decision_id)
            if opened is None:
                future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                opened = self._open[decision_id] = _Open(settle.gateway, item, future)
            waiting.append(opened)
        self._work.set()
        duplicates = [await asyncio.shield(each.done) for each in waiting]
        ids = [item.settlement.decision_id for item in settle.items]
        return Settled(tuple(map(Charged, ids, duplicates)))

    async def attend(self, gateway: str) -> tuple[str, ...]:
        """The accounts to be given back, as soon as there are any; nothing after ATTEND_S."""
        self._check_running()
        assert self._core is not None
        if not self._core.recalls(gateway):
            self._recalled[gateway].clear()
            try:
                await asyncio.wait_for(self._recalled[gateway].wait(), ATTEND_S)
            except TimeoutError:
                if gateway not in self._core.gateways():
                    self._recalled.pop(gateway, None)
        return self._core.recalls(gateway)

    # -- turns

    def _check_running(self) -> None:
        if not self.running or self._closing:
            raise AccountingUnavailable("the accounting owner does not run", retry_after_s=1.0)

    async def _turns(self, core: OwnerCore) -> None:
        pause_s = RETRY_S[0]
        try:
            while not self._ledger.replaced and not self._closing:
                if self._failing:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, RETRY_S[1])
                else:
                    pause_s = RETRY_S[0]
                    await _wait(self._work, BEAT_S)
                self._work.clear()
                await self._turn(core)
                if any(each.charge is None for each in self._open.values()):
                    self._work.set()
        except Exception:
            log.exception("the accounting owner stops: nobody is granted anything until it is started again")
        finally:
            self._fail_all()

    def _fail_all(self) -> None:
        for opened in self._open.values():
            _fail(opened.done)
        for asked in self._asked:
            _fail(asked.done)

    async def _turn(self, core: OwnerCore) -> None:
        core.tick(self._clock.wall_s(), self._clock.steady_s())
        if self._failing:
            self._failing = not await self._write(core)
        asked, self._asked = self._asked, []
        fresh = [each for each in self._open.values() if each.charge is None][:MOST_ROWS]
        version = self._policy().version
        held = core.holdings.accounts() if version != self._ruled_by else ()
        writable = not self._failing and await self._look(core, asked, fresh, held)
        if writable and version != self._ruled_by:
            core.recall_overdrawn()
            self._ruled_by = version
        answers = [core.exchange(each.message, writable=writable) for each in asked]
        if writable and not await self._write(core):
            self._failing = True
            answers = [_without(core, *each) for each in zip(asked, answers, strict=True)]
        for each, answer in zip(asked, answers, strict=True):
            if not each.done.done():
                each.done.set_result(answer)
        alive = set(core.gateways())
        for gateway in alive:
            if core.recalls(gateway):
                self._recalled[gateway].set()
        for gateway in self._answers.keys() - alive:
            if self._answers[gateway].done.done():
                del self._answers[gateway]

    async def _look(self, core: OwnerCore, asked: list[_Asked], fresh: list[_Open], held: Iterable[str]) -> bool:
        """Learn what the turn must know, and book the settlements; False if the database did not say."""
        settlements = [each.item.settlement for each in fresh]
        accounts = [account for each in settlements for account in accounts_of(each.tenant, each.team)]
        needed = (need.account for each in asked for need in each.message.needs)
        missing = core.missing([*accounts, *needed, *held])
        ids = [each.decision_id for each in settlements]
        if not ids and not missing:
            return True
        try:
            known, sums = await self._on_disk(self._ledger.look, ids, missing)
        except DatabaseError as error:
            self._failing = True
            log.warning("accounting waits: %s", error.message)
            return False
        for window, nusd in zip(missing, sums, strict=True):
            core.load(window, nusd)
        for each in fresh:
            if each.item.settlement.decision_id in known:
                del self._open[each.item.settlement.decision_id]
                each.done.set_result(True)
            else:
                each.charge = core.charge(each.gateway, each.item)
        return True

    async def _write(self, core: OwnerCore) -> bool:
        """Make all that was decided durable; False if that failed, and everything stays to be written."""
        booked = [(each, each.charge) for each in self._open.values() if each.charge is not None]
        leases = core.holdings.changes()
        if not booked and not leases and not self._failing:
            return True
        rows = [Row(each.item.settlement, charge) for each, charge in booked]
        try:
            await self._on_disk(self._ledger.commit, rows, leases, core.calendar_s)
        except DatabaseError as error:
            log.warning("accounting waits: %s", error.message)
            return False
        core.holdings.written(leases)
        for each, _ in booked:
            del self._open[each.item.settlement.decision_id]
            if not each.done.done():
                each.done.set_result(False)
        return True

    async def _on_disk(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _limits_of(self, account: str) -> Limits:
        kind, _, name = account.partition(":")
        policy = self._policy()
        owner = policy.teams.get(name) if kind == "team" else policy.tenants.get(name)
        return owner.limits if owner is not None else Limits()


def _without(core: OwnerCore, asked: _Asked, answer: Exchanged) -> Exchanged:
    """The same answer with nothing in it that had to be durable."""
    lost = [each for each in answer.grants if each.money_nusd or each.permits]
    core.undo(asked.message.gateway, lost)
    short = tuple(Shortage(each.account, "money", unwritten=True) for each in lost)
    kept: tuple[Grant, ...] = tuple(each for each in answer.grants if each not in lost)
    return replace(answer, grants=kept, shortages=answer.shortages + short)


def _fail(future: asyncio.Future[T]) -> None:
    if not future.done():
        future.set_exception(AccountingUnavailable("the accounting owner stopped", retry_after_s=1.0))
        future.exception()


async def _wait(event: asyncio.Event, longest_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), longest_s)
    except TimeoutError:
        return
