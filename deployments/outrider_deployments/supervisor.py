"""Keeps a target attached to its drafter for as long as both live, whichever of them is restarted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from outrider.errors import DrafterMismatch, OutriderError
from outrider.link import DraftLink

__all__ = ["DrafterAddress", "DrafterSupervisor"]

logger = logging.getLogger(__name__)

POLL_S = 0.2
BACKOFF_S = (0.2, 2.0)
"""First and longest pause between attempts."""


@dataclass(frozen=True, slots=True)
class DrafterAddress:
    """Where a drafter listens, and which incarnation of it."""

    endpoint: str
    epoch: int


class DraftSocket(Protocol):
    """The part of the engine a drafter plugs into."""

    @property
    def has_drafter(self) -> bool: ...
    def attach_drafter(self, link: DraftLink) -> None: ...


class DrafterSupervisor:
    """Whenever the engine has no drafter: locate one, connect off the event loop, attach; back off while that fails.

    A drafter made for another model is refused once and for good (`refusal` says why): its files will not change.
    """

    def __init__(
        self,
        engine: DraftSocket,
        locate: Callable[[], Awaitable[DrafterAddress]],
        connect: Callable[[str], DraftLink],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._locate = locate
        self._connect = connect
        self._sleep = sleep
        self.refusal: str | None = None

    async def run(self) -> None:
        """Until cancelled, or until a drafter is refused."""
        pause_s = BACKOFF_S[0]
        while self.refusal is None:
            if self._engine.has_drafter:
                await self._sleep(POLL_S)
            elif await self._attach():
                pause_s = BACKOFF_S[0]
            else:
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_S[1])

    async def _attach(self) -> bool:
        try:
            address = await self._locate()
            link = await asyncio.get_running_loop().run_in_executor(None, self._connect, address.endpoint)
        except DrafterMismatch as error:
            self.refusal = error.message
            logger.error("drafter refused, decoding without one: %s", error.message)
            return False
        except OutriderError as error:
            logger.info("drafter not reachable yet: %s", error.message)
            return False
        except Exception as error:  # whatever Serve raises while the drafter's replica is being restarted
            logger.info("drafter not found yet: %r", error)
            return False
        self._engine.attach_drafter(link)
        logger.info("drafter attached at %s (epoch %d)", address.endpoint, address.epoch)
        return True
