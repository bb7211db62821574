"""A gateway's side of a change of policy: an open call to control that tells what it has and what to do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from outrider.errors import NotReady, OutriderError
from outrider.policy.model import Policy
from outrider.policy.sources import Source

__all__ = ["FENCE_S", "Documents", "Follower", "Order", "Polled", "Report"]

_log = logging.getLogger(__name__)

FENCE_S = 6.0
"""How long a gateway goes on without control."""
RETRY_S = 0.3

Documents = tuple[Source, ...]
"""The platform's document, then the teams'."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a gateway has: the version it admits under (0 before the first), and what became of the last preparation.

    prepared: the attempt it could activate at once; refusal: why it could not activate the attempt `refused`.
    """

    active: int = 0
    prepared: int = 0
    refused: int = 0
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What to do before the next poll. `documents` come with everything but `wait`.

    attempt: names a preparation and is never used twice; an activation names the one that became this version number.
    """

    kind: Literal["wait", "prepare", "activate"]
    number: int = 0
    attempt: int = 0
    documents: Documents = ()


class Polled(Protocol):
    """Control, as a gateway reaches it."""

    async def poll(self, gateway: str, report: Report) -> Order: ...


class Follower:
    """A gateway's side, on its event loop: keeps a poll open and has the policy that requests are admitted under.

    read: documents to a policy this gateway can serve; raises OutriderError to refuse them.
    """

    def __init__(
        self,
        gateway: str,
        control: Polled,
        read: Callable[[Documents], Policy],
        *,
        fence_s: float = FENCE_S,
    ) -> None:
        self._gateway = gateway
        self._control = control
        self._read = read
        self._fence_s = fence_s
        self._report = Report()
        self._active: Policy | None = None
        self._prepared: Mapping[int, Policy] = {}
        self._good_until_s = 0.0

    @property
    def policy(self) -> Policy:
        """Raises NotReady before the first policy came, and when control was out of reach for a fence."""
        policy = self.last
        if time.monotonic() > self._good_until_s:
            raise NotReady("this gateway cannot reach control, so its policy may be an old one; try again")
        return policy

    @property
    def last(self) -> Policy:
        """The newest that came, fenced or not: what was admitted goes on under it. Raises NotReady before the first."""
        if self._active is None:
            raise NotReady("this gateway has no policy yet")
        return self._active

    async def run(self) -> None:
        """Until cancelled. A poll that is not answered within a fence is given up and made anew."""
        while True:
            sent_s = time.monotonic()
            try:
                async with asyncio.timeout(self._fence_s):
                    order = await self._control.poll(self._gateway, self._report)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # whatever the transport raises while control comes and goes
                _log.debug("control does not answer: %r", error)
                await asyncio.sleep(RETRY_S)
                continue
            self._obey(order)
            self._good_until_s = sent_s + self._fence_s

    def _obey(self, order: Order) -> None:
        if order.kind == "wait":
            return
        policy = self._prepared.get(order.attempt)
        if policy is None:
            try:
                policy = self._read(order.documents)
            except OutriderError as error:
                self._refuse(order, error)
                return
        if order.kind == "prepare":
            self._prepared = {order.attempt: policy}
            self._report = Report(self._report.active, prepared=order.attempt)
        else:
            self._prepared = {}
            self._active = policy
            self._report = Report(order.number)

    def _refuse(self, order: Order, error: OutriderError) -> None:
        """A committed version that this gateway cannot read leaves it without one: it was never asked to prepare it."""
        if order.kind == "activate":
            _log.error("policy version %d does not load here: %s", order.number, error.message)
            self._active = None
            self._report = Report(order.number)
            return
        self._report = Report(self._report.active, refused=order.attempt, refusal=error.message)
