"""A streaming client of any OpenAI-compatible endpoint that reads no more of an event than it must.

On a small machine the client shares the server's cores, so parsing every chunk would be measured as the server's cost.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx

from outrider.bench.goodput import Fate
from outrider.errors import ConfigurationError

__all__ = ["Leave", "StreamClient", "Streamed"]

_FACTS = "x-outrider-"


@dataclass(frozen=True, slots=True)
class Leave:
    """When a client goes away from a running answer: after so many output tokens, or so many seconds."""

    after_tokens: int | None = None
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Streamed:
    """One stream: seconds to first text and to the end, longest gap between texts, the server's token counts.

    first_s is None when no text came before it broke off. text_events: one per round, not one per token.
    reason: why it was no answer, a code where the server told one; message: in the server's words.
    decision: its `x-outrider-…` headers without the prefix; usage: the last usage object, whole.
    """

    fate: Fate
    first_s: float | None
    wall_s: float
    longest_gap_s: float
    prompt_tokens: int
    completion_tokens: int
    text_events: int
    reason: str = ""
    message: str = ""
    decision: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; None for a single token."""
        rest = self.completion_tokens - 1
        return (self.wall_s - self.first_s) / rest if self.first_s is not None and rest > 0 else None


class StreamClient:
    """Chat completions over one connection pool; timeout_s is for a whole answer. An async context manager."""

    def __init__(
        self, url: str, key: str, *, timeout_s: float = 600.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={"authorization": f"Bearer {key}"},
            timeout=None,
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

    async def models(self) -> list[str]:
        """Names of the models that the key may use. Raises ConfigurationError where the endpoint tells none."""
        try:
            response = await self._http.get("/v1/models", timeout=10.0)
            response.raise_for_status()
            return [str(model["id"]) for model in response.json()["data"]]
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            message = f"{self._http.base_url} does not list its models: {type(error).__name__}: {error}"
            raise ConfigurationError(message, param="url") from error

    async def chat(self, body: Mapping[str, Any]) -> Streamed:
        """As `ask`, where anything but an answer raises ConfigurationError with the endpoint's own words."""
        streamed = await self.ask(body)
        if streamed.fate is not Fate.ANSWERED:
            raise ConfigurationError(streamed.message)
        return streamed

    async def ask(self, body: Mapping[str, Any], leave: Leave | None = None) -> Streamed:
        """Stream one answer to its end, or until the client leaves; `body` is an OpenAI body without streaming options.

        Whatever the endpoint does is the result, never an exception. The connection of a left answer is closed.
        """
        leave = leave or Leave()
        options = {"include_usage": True} | ({"continuous_usage_stats": True} if leave.after_tokens else {})
        reading = _Reading(time.perf_counter())
        limit_s = min(self._timeout_s, leave.after_s or self._timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                await self._stream({**body, "stream": True, "stream_options": options}, reading, leave)
        except TimeoutError:
            if limit_s == leave.after_s:
                reading.ended(Fate.CANCELLED, "left")
            else:
                reading.ended(Fate.TIMED_OUT, "timeout", f"the endpoint did not finish within {limit_s:g} s")
        except httpx.HTTPError as error:
            name = type(error).__name__
            reading.ended(Fate.FAILED, name, f"the endpoint failed: {name}: {error}")
        return reading.streamed()

    async def _stream(self, body: Mapping[str, Any], reading: _Reading, leave: Leave) -> None:
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                content = await response.aread()
                said = f"the endpoint answered {response.status_code}: {response.text[:300]}"
                fate = Fate.FAILED if response.status_code in (500, 502, 504) else Fate.REFUSED
                return reading.ended(fate, _code(content) or f"HTTP {response.status_code}", said)
            named = response.headers.items()
            reading.decision = {name[len(_FACTS) :]: value for name, value in named if name.startswith(_FACTS)}
            async with aclosing(_events(response)) as events:
                async for event in events:
                    if event.startswith(b'{"error"'):
                        said = f"the stream broke: {event[:300].decode(errors='replace')}"
                        return reading.ended(Fate.FAILED, _code(event) or "broken stream", said)
                    reading.take(event)
                    if leave.after_tokens and reading.tokens >= leave.after_tokens:
                        return reading.ended(Fate.CANCELLED, "left")
        if not reading.usage:
            said = "the stream ended without usage; does the endpoint know stream_options.include_usage?"
            return reading.ended(Fate.FAILED, "no usage", said)
        return reading.ended(Fate.ANSWERED)


@dataclass(slots=True)
class _Reading:
    """A stream while it is read; a clock reading per event with text."""

    started: float
    first_at: float | None = None
    last_at: float = 0.0
    ended_at: float = 0.0
    gap_s: float = 0.0
    text_events: int = 0
    end: tuple[Fate, str, str] = (Fate.FAILED, "", "")
    decision: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The server's count as far as it is known; texts are a lower bound where it tells none on the way."""
        return max(int(self.usage.get("completion_tokens", 0)), self.text_events)

    def take(self, event: bytes) -> None:
        if b'"usage":{' in event or b'"usage": {' in event:
            self.usage = json.loads(event)["usage"]
        if not _has_text(event):
            return
        now = time.perf_counter()
        if self.first_at is None:
            self.first_at = now
        else:
            self.gap_s = max(self.gap_s, now - self.last_at)
        self.last_at, self.text_events = now, self.text_events + 1

    def ended(self, fate: Fate, reason: str = "", message: str = "") -> None:
        self.ended_at, self.end = time.perf_counter(), (fate, reason, message)

    def streamed(self) -> Streamed:
        fate, reason, message = self.end
        answered = fate is Fate.ANSWERED
        first_at = self.ended_at if answered and self.first_at is None else self.first_at
        return Streamed(
            fate,
            None if first_at is None else first_at - self.started,
            self.ended_at - self.started,
            self.gap_s,
            self.usage.get("prompt_tokens", 0),
            self.usage.get("completion_tokens", 0) if answered else self.tokens,
            self.text_events,
            reason,
            message,
            self.decision,
            self.usage,
        )


async def _events(response: httpx.Response) -> AsyncGenerator[bytes]:
    """Server-sent events, whole, without their `data: `."""
    rest = b""
    async for piece in response.aiter_raw():
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            yield event.removeprefix(b"data: ")


def _code(content: bytes) -> str | None:
    """The code of an error in OpenAI's shape, or its type."""
    try:
        error = json.loads(content)["error"]
        return str(error.get("code") or error["type"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _has_text(event: bytes) -> bool:
    """Whether a chunk's delta carries text, told without parsing it: `"content":` followed by a string not empty."""
    place = event.find(b'"content":')
    return place >= 0 and event[place + 10 :].lstrip()[:2] not in (b'""', b"nu", b"")
