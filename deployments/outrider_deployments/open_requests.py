"""Ties each open handle call to its request in the engine: they end together and are cancelled together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from outrider.errors import InvalidRequest, TargetLost
from outrider.types import GenerationRequest, LoadSnapshot, TokenChunk
from outrider_deployments.token_channel import TokenPublisher

__all__ = ["OpenRequests", "Submits"]

SUBMITTERS = 16
"""Threads that hand requests to the engine: each waits for the step in progress to end."""


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
        self._submitters = ThreadPoolExecutor(SUBMITTERS, thread_name_prefix="submit")
        self._ends: dict[str, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    async def run(self, request: GenerationRequest, gateway: str) -> None:
        """Until the engine ends the request. Cancelling this coroutine cancels the request within one round.

        Raises what the engine refuses the request with, and TargetLost when the gateway can no longer be reached.
        """
        name = request.request_id
        if name in self._ends:
            raise InvalidRequest(f"a request with the id {name} is already running", param="request_id")
        end = self._ends[name] = self._loop.create_future()
        self._publisher.expect(name, gateway)
        submitted = self._loop.run_in_executor(self._submitters, self._engine.submit, request)
        try:
            await asyncio.shield(submitted)
            await end
        except asyncio.CancelledError:
            # Behind the submission, or the engine would meet the cancellation first and then run for nobody.
            submitted.add_done_callback(lambda _: self._engine.cancel(name))
            raise
        finally:
            del self._ends[name]
            self._publisher.forget(name)

    def on_round(self, chunks: Sequence[tuple[str, TokenChunk]], snapshot: LoadSnapshot) -> None:
        """On the engine thread: send the chunks, then wake the calls whose request ended in this round."""
        self._publisher.publish(chunks, snapshot)
        ended = [name for name, chunk in chunks if chunk.finish is not None]
        if ended:
            self._loop.call_soon_threadsafe(self._end, ended, None)

    def on_lost(self, names: Sequence[str]) -> None:
        """On any thread: the gateway of these requests is gone, so nobody reads their tokens."""
        for name in names:
            self._engine.cancel(name)
        self._loop.call_soon_threadsafe(self._end, names, TargetLost("the gateway went away"))

    def _end(self, names: Sequence[str], error: TargetLost | None) -> None:
        for name in names:
            end = self._ends.get(name)
            if end is None or end.done():
                continue
            if error is None:
                end.set_result(None)
            else:
                end.set_exception(error)
