"""A streaming client of any OpenAI-compatible endpoint that reads no more of an event than it must.

On a small machine the client shares the server's cores, so parsing every chunk would be measured as the server's cost.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from outrider.errors import ConfigurationError

__all__ = ["StreamClient", "Streamed"]


@dataclass(frozen=True, slots=True)
class Streamed:
    """One answered stream: seconds to first text and to the end, longest gap between texts, the server's token counts.

    text_events counts events that carried text: one per round, not one per token.
    """

    first_s: float
    wall_s: float
    longest_gap_s: float
    prompt_tokens: int
    completion_tokens: int
    text_events: int

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; None for a single token."""
        rest = self.completion_tokens - 1
        return (self.wall_s - self.first_s) / rest if rest > 0 else None


class StreamClient:
    """Chat completions over one connection pool. An async context manager."""

    def __init__(
        self, url: str, key: str, *, timeout_s: float = 120.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={"authorization": f"Bearer {key}"},
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=None),
            transport=transport,
        )

    async def __aenter__(self) -> StreamClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def chat(self, body: Mapping[str, Any]) -> Streamed:
        """Stream one answer to its end; `body` is an OpenAI body without its streaming options.

        Raises ConfigurationError when the endpoint is not reached, refuses, or ends the stream without usage.
        """
        streaming = {**body, "stream": True, "stream_options": {"include_usage": True}}
        started = time.perf_counter()
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=streaming) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise ConfigurationError(f"the endpoint answered {response.status_code}: {response.text[:300]}")
                return await _measure(_events(response), started)
        except httpx.HTTPError as error:
            raise ConfigurationError(f"the endpoint failed: {type(error).__name__}: {error}") from error


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Server-sent events, whole, without their `data: `."""
    rest = b""
    async for piece in response.aiter_raw():
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            yield event.removeprefix(b"data: ")


async def _measure(events: AsyncIterator[bytes], started: float) -> Streamed:
    first_at = last_at = gap = 0.0
    count = 0
    usage: dict[str, int] | None = None
    async for event in events:
        if event.startswith(b'{"error"'):
            raise ConfigurationError(f"the stream broke: {event[:300].decode(errors='replace')}")
        if b'"usage":{' in event or b'"usage": {' in event:
            usage = json.loads(event)["usage"]
        if not _has_text(event):
            continue
        now = time.perf_counter()
        gap = max(gap, now - last_at) if count else 0.0
        first_at, last_at, count = first_at or now, now, count + 1
    ended = time.perf_counter()
    if usage is None:
        raise ConfigurationError("the stream ended without usage; does the endpoint know stream_options.include_usage?")
    return Streamed(
        (first_at or ended) - started, ended - started, gap, usage["prompt_tokens"], usage["completion_tokens"], count
    )


def _has_text(event: bytes) -> bool:
    """Whether a chunk's delta carries text, told without parsing it: `"content":` followed by a string not empty."""
    place = event.find(b'"content":')
    return place >= 0 and event[place + 10 :].lstrip()[:2] not in (b'""', b"nu", b"")
