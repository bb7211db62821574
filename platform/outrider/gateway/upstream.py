"""The seam behind the gateway: whatever turns a routed request into token chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from outrider.types import Decision, GenerationRequest, LoadSnapshot, TokenChunk

__all__ = ["ChunkStream", "Upstream"]


class ChunkStream(Protocol):
    """An async iterator of chunks that can be closed early; an async generator is one."""

    def __aiter__(self) -> AsyncIterator[TokenChunk]: ...

    async def __anext__(self) -> TokenChunk: ...

    async def aclose(self) -> None:
        """Stop the request within one round. Idempotent."""


class Upstream(Protocol):
    """One model's replicas as the gateway sees them."""

    @property
    def model(self) -> str:
        """The name tenants and policies use."""

    def snapshots(self) -> Sequence[LoadSnapshot]:
        """The newest known load of every replica believed alive, stamped by the wall clock, the newest first.

        Age alone removes nobody: the router widens its predictions by it. Empty while no replica is known.
        """

    def stream(self, request: GenerationRequest, decision: Decision) -> ChunkStream:
        """Start generating on `decision.replica`; the last chunk has `finish` and `summary`. Iterating raises typed
        errors.

        Raises NotReady, Overloaded or TargetLost; faults of one request may arrive as a chunk that finishes with
        ERROR instead.
        """
