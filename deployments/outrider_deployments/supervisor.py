"""Keeps a target attached to its drafter for as long as both live, whichever of them is restarted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from outrider.errors import DrafterMismatch, OutriderError

if TYPE_CHECKING:
    from outrider.link import DraftLink

__all__ = ["DrafterAddress", "DrafterSupervisor"]

logger = logging.getLogger(__name__)

POLL_S = 0.2
EPOCH_POLLS = 10
"""Every so many polls, ask whether the drafter is still the incarnation that is attached: an idle engine sends it
nothing and would learn of a restart only by the first request's timeout."""
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
    """Whenever the engine has no drafter, or one of the past: locate it, connect, attach; back off while that fails.

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
        self._attached_epoch: int | None = None
        self.refusal: str | None = None

    async def run(self) -> None:
        """Until cancelled, or until a drafter is refused."""
        pause_s, polls = BACKOFF_S[0], 0
        while self.refusal is None:
            polls += 1
            if self._engine.has_drafter and polls % EPOCH_POLLS:
                await self._sleep(POLL_S)
            elif await self._attach():
                pause_s = BACKOFF_S[0]
                await self._sleep(POLL_S)
            else:
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_S[1])

    async def _attach(self) -> bool:
        """Whether the present incarnation of the drafter is attached now."""
        loop = asyncio.get_running_loop()
        try:
            address = await self._locate()
            if self._engine.has_drafter and address.epoch == self._attached_epoch:
                return True
            link = await loop.run_in_executor(None, self._connect, address.endpoint)
            await loop.run_in_executor(None, self._engine.attach_drafter, link)  # waits for the step in progress
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
        self._attached_epoch = link.welcome.epoch
        logger.info("drafter attached at %s (epoch %d)", address.endpoint, address.epoch)
        return True
