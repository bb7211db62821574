"""The streaming client, against scripted server-sent events cut at awkward places."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from outrider.bench.client import Leave, StreamClient, Streamed
from outrider.bench.goodput import Fate
from outrider.errors import ConfigurationError

OPENING = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 12}}


def delta(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}], "usage": None}


def stream(*events: object, spaced: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    lines = [json.dumps(event, separators=separators) if not isinstance(event, str) else event for event in events]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


class Pieces(httpx.AsyncByteStream):
    def __init__(self, content: bytes, size: int) -> None:
        self._pieces = [content[at : at + size] for at in range(0, len(content), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def ask(content: bytes, *, size: int = 9, status: int = 200) -> tuple[Any, dict[str, Any]]:
    seen: dict[str, Any] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        seen.update(json.loads(request.content), key=request.headers["authorization"], path=request.url.path)
        return httpx.Response(status, stream=Pieces(content, size))

    async with StreamClient("http://test/", "sk-x", transport=httpx.MockTransport(answer)) as client:
        return await client.chat({"model": "pro", "max_tokens": 12}), seen


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("spaced", [False, True])
async def test_counts_come_from_the_server_and_empty_deltas_are_no_text(size: int, spaced: bool) -> None:
    done = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None}
    content = stream(OPENING, delta("a"), delta('"usage":{ and "content":""'), done, USAGE, "[DONE]", spaced=spaced)
    streamed, _ = await ask(content, size=size)
    assert (streamed.prompt_tokens, streamed.completion_tokens, streamed.text_events) == (7, 12, 2)
    assert 0 <= streamed.first_s <= streamed.wall_s
    assert streamed.longest_gap_s <= streamed.wall_s
    assert streamed.tpot_s == (streamed.wall_s - streamed.first_s) / 11


async def test_the_request_asks_for_a_stream_with_usage() -> None:
    _, seen = await ask(stream(delta("a"), USAGE))
    assert seen["path"] == "/v1/chat/completions"
    assert seen["key"] == "Bearer sk-x"
    assert seen["stream"] is True
    assert seen["stream_options"] == {"include_usage": True}
    assert seen["model"] == "pro"


async def test_one_token_has_no_pace() -> None:
    one = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    streamed, _ = await ask(stream(delta("a"), one))
    assert streamed.tpot_s is None


async def test_a_refusal_is_said_in_the_server_s_words() -> None:
    with pytest.raises(ConfigurationError, match=r"401.*no such key"):
        await ask(b'{"error": {"message": "no such key"}}', status=401)


async def test_an_error_in_the_stream_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="target_lost"):
        await ask(stream(delta("a"), {"error": {"code": "target_lost"}}, USAGE))


async def test_a_stream_without_usage_measures_nothing() -> None:
    with pytest.raises(ConfigurationError, match="usage"):
        await ask(stream(delta("a"), "[DONE]"))


async def test_an_absent_server_is_said() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with StreamClient("http://test", "k", transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(ConfigurationError, match="refused"):
            await client.chat({})


async def reply(content: bytes, *, status: int = 200, leave: Leave | None = None, headers: Any = None) -> Streamed:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=Pieces(content, 9), headers=headers)

    async with StreamClient("http://test", "k", timeout_s=0.2, transport=httpx.MockTransport(answer)) as client:
        return await client.ask({"model": "pro"}, leave)


@pytest.mark.parametrize(
    ("status", "code", "fate"),
    [
        (429, "overloaded", Fate.REFUSED),
        (503, "not_ready", Fate.REFUSED),
        (401, "invalid_api_key", Fate.REFUSED),
        (500, "engine_fault", Fate.FAILED),
    ],
)
async def test_a_refusal_is_told_from_a_failure_and_keeps_its_code(status: int, code: str, fate: Fate) -> None:
    streamed = await reply(json.dumps({"error": {"message": "m", "code": code}}).encode(), status=status)
    assert (streamed.fate, streamed.reason, streamed.first_s) == (fate, code, None)
    assert (await reply(b"<html>", status=status)).reason == f"HTTP {status}"


async def test_a_broken_stream_keeps_what_had_come() -> None:
    streamed = await reply(stream(delta("a"), delta("b"), {"error": {"code": "target_lost", "message": "m"}}))
    assert (streamed.fate, streamed.reason, streamed.completion_tokens) == (Fate.FAILED, "target_lost", 2)
    assert streamed.first_s is not None


async def test_a_client_leaves_after_tokens_of_the_server_s_running_count() -> None:
    def counted(text: str, tokens: int) -> dict[str, Any]:
        return delta(text) | {"usage": {"prompt_tokens": 7, "completion_tokens": tokens}}

    content = stream(OPENING, counted("ab", 2), counted("cdef", 6), counted("g", 7), USAGE)
    streamed = await reply(content, leave=Leave(after_tokens=5))
    assert (streamed.fate, streamed.completion_tokens, streamed.text_events) == (Fate.CANCELLED, 6, 2)
    assert (await reply(content, leave=Leave(after_tokens=99))).fate is Fate.ANSWERED


class Endless(httpx.AsyncByteStream):
    """Answers once and then never again; knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield stream(delta("a"))
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("leave", "fate"), [(Leave(after_s=0.02), Fate.CANCELLED), (None, Fate.TIMED_OUT)])
async def test_leaving_and_losing_patience_close_the_stream(leave: Leave | None, fate: Fate) -> None:
    body = Endless()

    async with StreamClient(
        "http://test", "k", timeout_s=0.1, transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=body))
    ) as client:
        streamed = await client.ask({}, leave)
    assert (streamed.fate, streamed.completion_tokens, body.closed) == (fate, 1, True)


async def test_what_the_server_decided_and_counted_is_kept() -> None:
    usage = USAGE["usage"] | {"outrider": {"rounds": 4, "acceptance_length": 3.0}}  # type: ignore[operator]
    headers = {"x-outrider-depth-cap": "5", "x-request-id": "r"}
    streamed = await reply(stream(delta("a"), USAGE | {"usage": usage}), headers=headers)
    assert streamed.decision == {"depth-cap": "5"}
    assert streamed.usage["outrider"]["rounds"] == 4
