"""Ties each open handle call to its request in the engine: they end together and are cancelled together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from outrider.errors import TargetLost
from outrider.types import GenerationRequest, LoadSnapshot, TokenChunk
from outrider_deployments.token_channel import TokenPublisher

__all__ = ["OpenRequests", "Submits"]


class Submits(Protocol):
    """The part of `outrider.engine.EngineLoop` a request passes through."""

    def submit(self, request: GenerationRequest) -> None: ...
    def cancel(self, request_id: str) -> None: ...


class OpenRequests:
    """Lives on a replica's event loop; `on_round` and `on_lost` alone are called from other threads."""

    def __init__(self, engine: Submits, publisher: TokenPublisher) -> None:
        self._engine = engine
        self._publisher = publisher
        self._loop = asyncio.get_running_loop()
        self._ends: dict[str, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    async def run(self, request: GenerationRequest, gateway: str) -> None:
        """Until the engine ends the request. Cancelling this coroutine cancels the request within one round.

        Raises what the engine refuses the request with, and TargetLost when the gateway can no longer be reached.
        """
        end = self._ends[request.request_id] = self._loop.create_future()
        try:
            self._publisher.expect(request.request_id, gateway)
            self._engine.submit(request)
            await end
        finally:
            del self._ends[request.request_id]
            self._publisher.forget(request.request_id)
            if not end.done() or end.cancelled():
                self._engine.cancel(request.request_id)

    def on_round(self, chunks: Sequence[tuple[str, TokenChunk]], snapshot: LoadSnapshot) -> None:
        """On the engine thread: send the chunks, then wake the calls whose request ended in this round."""
        self._publisher.publish(chunks, snapshot)
        ended = [request_id for request_id, chunk in chunks if chunk.finish is not None]
        if ended:
            self._loop.call_soon_threadsafe(self._end, ended, None)

    def on_lost(self, request_ids: Sequence[str]) -> None:
        """On any thread: the gateway of these requests is gone, so nobody reads their tokens."""
        for request_id in request_ids:
            self._engine.cancel(request_id)
        self._loop.call_soon_threadsafe(self._end, request_ids, TargetLost("the gateway went away"))

    def _end(self, request_ids: Sequence[str], error: TargetLost | None) -> None:
        for request_id in request_ids:
            end = self._ends.get(request_id)
            if end is None or end.done():
                continue
            if error is None:
                end.set_result(None)
            else:
                end.set_exception(error)
