"""The target deployment: one engine in its own process, its drafter's supervisor, and the tokens' way out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from outrider.errors import EngineFault, NotReady, TargetLost
from outrider.types import GenerationRequest, LoadSnapshot, TokenChunk
from outrider_deployments.token_channel import TokenPublisher

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from outrider.engine import EngineLoop
    from outrider_deployments.config import ModelConfig, Timeouts
    from outrider_deployments.preflight import ModelPaths
    from outrider_deployments.supervisor import DrafterAddress

__all__ = ["OpenRequests", "TargetReplica"]

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """What this module asks of `outrider.engine.EngineLoop`."""

    def submit(self, request: GenerationRequest) -> None: ...
    def cancel(self, request_id: str) -> None: ...


class OpenRequests:
    """Ties each open handle call to its request in the engine: ends together, is cancelled together.

    Lives on the replica's event loop; `on_round` alone is called on the engine thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended: dict[str, asyncio.Future[None]] = {}
        self._engine: Engine | None = None
        self._publisher: TokenPublisher | None = None

    def wire(self, engine: Engine, publisher: TokenPublisher) -> None:
        self._engine, self._publisher = engine, publisher

    def on_round(self, chunks: Sequence[tuple[str, TokenChunk]], snapshot: LoadSnapshot) -> None:
        """Send the round's chunks, then wake the calls whose request ended in it."""
        assert self._publisher is not None
        self._publisher.publish(chunks, snapshot)
        if ended := [request_id for request_id, chunk in chunks if chunk.finish is not None]:
            self._loop.call_soon_threadsafe(self._end, ended, None)


class TargetReplica: ...
