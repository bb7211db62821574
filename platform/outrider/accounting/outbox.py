"""Settlements on their way to the owner: in batches, one after the other, each until it is answered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from outrider.accounting.messages import OwnerClient, Settle, SettleItem
from outrider.errors import OutriderError

__all__ = ["Letter", "Outbox"]

MOST = 256
"""Settlements of one call; what waits meanwhile goes with the next one (group commit)."""

RETRY_S = (0.02, 1.0)
CALL_S = 10.0


@dataclass(slots=True, eq=False)
class Letter:
    """One settlement; `done` when it is durable. sent: it may be known to the owner, though nobody has said so."""

    item: SettleItem
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    sent: bool = False


class Outbox:
    """`run` it as a task. Letters are answered in no particular order, and none is ever dropped."""

    def __init__(self, owner: OwnerClient, gateway: str) -> None:
        self._owner, self._gateway = owner, gateway
        self._letters: deque[Letter] = deque()
        self._changed = asyncio.Condition()
        self._held_back = False

    async def put(self, letter: Letter) -> None:
        async with self._changed:
            self._letters.append(letter)
            self._changed.notify_all()

    async def hold_back(self) -> None:
        """Send nothing new, and return once everything that was sent is answered."""
        async with self._changed:
            self._held_back = True
            await self._changed.wait_for(lambda: not any(each.sent for each in self._letters))

    async def go_on(self) -> None:
        async with self._changed:
            self._held_back = False
            self._changed.notify_all()

    async def emptied(self) -> None:
        """Returns once nothing waits."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._letters)

    async def run(self) -> None:
        pause_s = RETRY_S[0]
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._sendable()))
                batch = self._sendable()[:MOST]
            if await self._send(batch):
                pause_s = RETRY_S[0]
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_S[1])

    def _sendable(self) -> list[Letter]:
        return [each for each in self._letters if each.sent or not self._held_back]

    async def _send(self, batch: Iterable[Letter]) -> bool:
        batch = list(batch)
        for each in batch:
            each.sent = True
        try:
            settle = Settle(self._gateway, tuple(each.item for each in batch))
            await asyncio.wait_for(self._owner.settle(settle), CALL_S)
        except (OutriderError, TimeoutError):
            return False
        async with self._changed:
            for each in batch:
                self._letters.remove(each)
                if not each.done.done():
                    each.done.set_result(None)
            self._changed.notify_all()
        return True
