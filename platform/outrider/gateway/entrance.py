"""Where requests wait for room in an engine: the waiting line on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from outrider.errors import Overloaded
from outrider.gateway.line import Ahead, Line, Waiter
from outrider.policy import Admission

__all__ = ["Entrance"]

POLL_S = 0.01
"""How often a line that is not empty looks for room; engines tell their load once a round."""
LONGEST_RETRY_S = 60.0


class Entrance:
    """Lets requests through while their model has room, else in the order of the line.

    room: places free on all replicas of a model, those of requests just sent there taken; infinite where unknown.
    refused: told the model and the reason (`full`, `waited`) of everybody sent home.
    """

    def __init__(
        self,
        room: Callable[[str], float],
        refused: Callable[[str, str], None] = lambda model, reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._room = room
        self._refused = refused
        self._clock = clock
        self._line = Line()
        self._called: dict[str, asyncio.Future[None]] = {}
        self._leaving: Counter[str] = Counter()
        """Places by model of those let through that have not been sent on: their room is taken, nobody else knows."""
        self._rules = Admission()
        self._poll: asyncio.Task[None] | None = None

    @property
    def anybody(self) -> bool:
        """Whether anybody waits."""
        return len(self._line) > 0

    def waiting(self) -> Counter[str]:
        """How many wait, by model."""
        return Counter(each.model for each in self._line)

    def ahead(self, model: str, priority: float) -> Ahead:
        """See Line."""
        return self._line.ahead(model, priority)

    def open_for(self, model: str) -> bool:
        """Whether a request may go on at once: there is room and nobody waits for it."""
        return not (len(self._line) and self._line.holds(model)) and self._has_room(model)

    async def wait(self, waiter: Waiter, rules: Admission) -> None:
        """Wait for room, which is kept until `sent_on`. Raises Overloaded, or what `give_up` was given.

        An exception, cancellation included, means that no room is kept.
        """
        self._rules = rules
        now_s = self._clock()
        called = self._called[waiter.id] = asyncio.get_running_loop().create_future()
        try:
            shed = self._line.join(waiter, now_s, ageing_per_s=rules.ageing_per_s, most=rules.max_waiting)
            if shed is not None:
                self._send_home(shed)
            self.let_through()
            if not called.done():
                self._keep_looking()
                async with asyncio.timeout(waiter.since_s + rules.max_wait_s - now_s):
                    await called
            called.result()
        except BaseException as error:
            if not self._line.leave(waiter.id) and _let_through(called):
                self.sent_on(waiter)
            if isinstance(error, TimeoutError):
                self._refused(waiter.model, "waited")
                raise self._overloaded(f"no place became free within {rules.max_wait_s:g} s") from None
            raise
        finally:
            del self._called[waiter.id]

    def sent_on(self, waiter: Waiter) -> None:
        """The room kept for it is taken by now, or will not be."""
        self._leaving[waiter.model] -= waiter.places

    def give_up(self, waiter_id: str, why: Exception) -> None:
        """Whoever waits under that id, if anybody, is told so."""
        called = self._called.get(waiter_id)
        if called is not None and not called.done():
            called.set_exception(why)

    def let_through(self) -> None:
        """Call everybody there is room for. Cheap while nobody waits; call it when room may have appeared."""
        while len(self._line):
            waiter = self._line.next(self._has_room, self._clock(), ageing_per_s=self._rules.ageing_per_s)
            if waiter is None:
                return
            called = self._called[waiter.id]
            if not called.done():  # else it is being cancelled
                self._leaving[waiter.model] += waiter.places
                called.set_result(None)

    def _has_room(self, model: str) -> bool:
        return self._room(model) - self._leaving[model] > 0

    def _send_home(self, waiter: Waiter) -> None:
        self._refused(waiter.model, "full")
        called = self._called[waiter.id]
        if not called.done():
            called.set_exception(self._overloaded("the waiting line is full of requests at least as important"))

    def _overloaded(self, why: str) -> Overloaded:
        drain_s = self._line.drain_s(self._clock())
        return Overloaded(why, retry_after_s=None if drain_s is None else min(drain_s, LONGEST_RETRY_S))

    def _keep_looking(self) -> None:
        if self._poll is None or self._poll.done():
            self._poll = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while len(self._line):
            await asyncio.sleep(POLL_S)
            self.let_through()


def _let_through(called: asyncio.Future[None]) -> bool:
    return called.done() and not called.cancelled() and called.exception() is None
