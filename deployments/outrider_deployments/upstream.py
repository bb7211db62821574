"""A target deployment as `outrider.gateway` sees it: an `Upstream` over one handle call and the token channel."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from ray.serve.exceptions import RequestCancelledError

from outrider.errors import InvalidRequest, NotReady, OutriderError, TargetLost
from outrider.types import Decision, GenerationRequest, LoadSnapshot, TokenChunk
from outrider_deployments.causes import raised_there
from outrider_deployments.sockets import Reach
from outrider_deployments.token_channel import RoundMessage, TokenReceiver

__all__ = ["EventPace", "GenerateCall", "ServeUpstream", "TargetHandle", "Upstreams"]

logger = logging.getLogger(__name__)

LAST_CHUNK_S = 5.0
"""How long the last chunk may trail the handle call that says the request has ended."""

SILENT_FOR = 10
"""A replica is believed alive for so many times `stale_s` without a word: a stall of its host is not its death."""


class GenerateCall(Protocol):
    """An open handle call; awaiting it returns when the request has ended in the engine."""

    def __await__(self) -> Any: ...
    def cancel(self) -> None: ...


class TargetHandle(Protocol):
    """What the gateway asks of a target deployment."""

    def generate(self, request: GenerationRequest, gateway: str, replica: str) -> GenerateCall:
        """Start on `replica`; on another if that one is gone."""

    async def attach_gateway(self, gateway: str) -> None:
        """Ask every replica to send its load to this gateway."""


class EventPace:
    """Spaces the events of all open streams of a gateway so that together they stay under `events_per_s`.

    A lone stream is hardly held back (2.5 ms at 400), sixteen get an event every 40 ms; the first is never delayed.
    """

    def __init__(self, events_per_s: float) -> None:
        self._events_per_s = events_per_s
        self.open_streams = 0

    @property
    def interval_s(self) -> float:
        """Time between two events of one stream."""
        return self.open_streams / self._events_per_s


class Arrivals:
    """What has come of one stream and was not taken yet."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[TokenChunk | OutriderError] = asyncio.Queue()
        self._ending = asyncio.Event()

    def __len__(self) -> int:
        return self._items.qsize()

    def put(self, item: TokenChunk | OutriderError) -> None:
        """Something came."""
        self._items.put_nowait(item)
        if not isinstance(item, TokenChunk) or item.finish is not None:
            self._ending.set()

    async def take(self, earliest_s: float) -> list[TokenChunk | OutriderError]:
        """All there is, one item at least, not before `earliest_s`: but the end of a stream is not kept waiting."""
        items = [await self._items.get()]
        wait_s = earliest_s - time.monotonic()
        if wait_s > 0 and not self._ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._ending.wait()
        while not self._items.empty():
            items.append(self._items.get_nowait())
        return items


class ServeUpstream:
    """One model. Tokens come over the channel; the handle call carries placement, cancellation and failure."""

    def __init__(
        self, model: str, target: TargetHandle, gateway: str, *, stale_s: float, pace: EventPace, replicas: int = 1
    ) -> None:
        """replicas: how many there are to be."""
        self.model = model
        self._replicas = replicas
        self._pace = pace
        self._target = target
        self._gateway = gateway
        self._stale_s = stale_s
        self._streams: dict[str, Arrivals] = {}
        self._loads: dict[str, tuple[float, LoadSnapshot]] = {}
        """By replica: the newest load and when it arrived on this process's monotonic clock."""

    def snapshots(self) -> Sequence[LoadSnapshot]:
        """The load of every replica, the last heard first; one that was silent for long is forgotten."""
        horizon = time.monotonic() - SILENT_FOR * self._stale_s
        self._loads = {name: each for name, each in self._loads.items() if each[0] > horizon}
        return [load for _, load in sorted(self._loads.values(), key=lambda each: -each[0])]

    @property
    def heard(self) -> int:
        """How many replicas were heard within `stale_s`."""
        horizon = time.monotonic() - self._stale_s
        return sum(heard_s > horizon for heard_s, _ in self._loads.values())

    async def stream(self, request: GenerationRequest, decision: Decision) -> AsyncGenerator[TokenChunk, None]:
        """Chunks until the one with a finish; closing the iterator cancels the request in the engine.

        Raises TargetLost when the replica dies or tokens were lost on the way, and what the engine refused with.
        """
        if request.request_id in self._streams:
            raise InvalidRequest(f"a request with the id {request.request_id} is already running")
        arrived = self._streams[request.request_id] = Arrivals()
        call = self._target.generate(request, self._gateway, decision.replica)
        watch = asyncio.ensure_future(self._watch(call, arrived))
        ended = False
        earliest_s = 0.0
        self._pace.open_streams += 1
        try:
            while not ended:
                items = await arrived.take(earliest_s)
                earliest_s = time.monotonic() + self._pace.interval_s
                for chunk in _merged(items):
                    ended = chunk.finish is not None
                    yield chunk
        finally:
            self._pace.open_streams -= 1
            del self._streams[request.request_id]
            watch.cancel()
            if not ended:
                call.cancel()

    def receive(self, message: RoundMessage, whole: bool) -> None:
        """Take one round in; on a gap every open stream ends, since whose tokens were lost is not known."""
        load = message.snapshot
        self._loads[load.replica] = (time.monotonic(), load)
        if not whole:
            for stream in self._streams.values():
                stream.put(TargetLost("tokens were lost between the target and the gateway"))
        for request_id, chunk in message.chunks:
            if (open_stream := self._streams.get(request_id)) is not None:
                open_stream.put(chunk)

    async def keep_attached(self) -> None:
        """Ask for load reports while one is missing: at start, and after a replica was restarted."""
        while True:
            if self.heard < self._replicas:
                try:
                    await self._target.attach_gateway(self._gateway)
                except Exception as error:  # whatever Serve raises while replicas come and go
                    logger.debug("target %s does not answer yet: %r", self.model, error)
            await asyncio.sleep(self._stale_s / 4)

    async def _watch(self, call: GenerateCall, arrived: Arrivals) -> None:
        """Turn the end of the handle call into the end of the stream, unless the last chunk is there first."""
        try:
            await call
            await asyncio.sleep(LAST_CHUNK_S)
            arrived.put(TargetLost("the target ended the request but its last tokens never arrived"))
        except OutriderError as error:
            arrived.put(raised_there(error))
        except asyncio.CancelledError:
            arrived.put(NotReady("the target was stopped before it took the request"))
            raise
        except RequestCancelledError:  # by us, when the stream was closed: says nothing of the replica
            arrived.put(NotReady("the request was cancelled"))
        except Exception as error:  # Ray's own: the replica died, or is unreachable
            logger.warning("a call of %s failed: %r", self.model, error)
            self._loads.clear()  # whoever still lives says so within a second
            arrived.put(TargetLost("the target was lost while it was answering"))


def _merged(items: Sequence[TokenChunk | OutriderError]) -> Iterator[TokenChunk]:
    """What has arrived as one chunk: an event over HTTP costs more CPU than the tokens of a round do.

    A reader that keeps up gets every round by itself. Raises an error in its place, after what came before it.
    """
    chunks: list[TokenChunk] = []
    error: OutriderError | None = None
    for item in items:
        if isinstance(item, OutriderError):
            error = item
            break
        chunks.append(item)
        if item.finish is not None:
            break
    if len(chunks) == 1:
        yield chunks[0]
    elif chunks:
        yield replace(
            chunks[-1],
            tokens=tuple(token for chunk in chunks for token in chunk.tokens),
            logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs),
            prompt_logprobs=tuple(entry for chunk in chunks for entry in chunk.prompt_logprobs),
            cached_tokens=max(chunk.cached_tokens for chunk in chunks),
        )
    if error is not None:
        raise error


class Upstreams:
    """All models behind one receiver: the gateway's end of every token channel."""

    def __init__(
        self,
        targets: Mapping[str, TargetHandle],
        *,
        stale_s: float,
        events_per_s: float,
        replicas: Mapping[str, int] | None = None,
        reach: Reach | None = None,
    ) -> None:
        """replicas: how many each model is to have, 1 if absent; reach: for targets on other hosts."""
        self._receiver = TokenReceiver(self._receive, reach)
        pace = EventPace(events_per_s)
        self.by_model = {
            model: ServeUpstream(
                model,
                target,
                self._receiver.address,
                stale_s=stale_s,
                pace=pace,
                replicas=(replicas or {}).get(model, 1),
            )
            for model, target in targets.items()
        }
        self._keepers = [asyncio.ensure_future(upstream.keep_attached()) for upstream in self.by_model.values()]

    def _receive(self, message: RoundMessage, whole: bool) -> None:
        if (upstream := self.by_model.get(message.snapshot.model)) is not None:
            upstream.receive(message, whole)

    async def close(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._receiver.close()
