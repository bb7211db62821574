"""A request's life beyond the happy end: stops, faults, leaving clients, draining."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from outrider.errors import NotReady, Overloaded, TargetLost
from outrider.types import FinishReason, TokenChunk

CHAT = {"model": "flash", "messages": [{"role": "user", "content": "hi"}]}
AUTHORIZED = {"authorization": "Bearer sk-outrider-acme"}


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream's events, `[DONE]` left as text."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def text_of(found: list[Any]) -> str:
    choices = [event["choices"][0] for event in found if isinstance(event, dict) and event.get("choices")]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_a_stop_string_across_tokens_cuts_and_closes_the_upstream(site: Any) -> None:
    for stream in (False, True):
        site.flash.closed.clear()
        site.says("one two three four five")
        site.flash.round_s = 0.001
        response = await site.chat(stop=["absent", "e fo"], stream=stream)
        if stream:
            found = events(response)
            assert text_of(found) == "one two thre"
            assert found[-2]["choices"][0]["finish_reason"] == "stop"
        else:
            choice = response.json()["choices"][0]
            assert (choice["message"]["content"], choice["finish_reason"]) == ("one two thre", "stop")
        assert site.flash.closed.is_set()
    assert site.flash.sent < 2 * len(site.flash.script)


async def test_a_slow_reader_does_not_keep_a_stopped_model_busy(site: Any) -> None:
    site.says("one two three four five")
    body = json.dumps(CHAT | {"stream": True, "stop": " two"}).encode()
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
    blocked, reading = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        if b"[DONE]" in message.get("body", b""):
            blocked.set()
            await reading.wait()

    headers = [(name.encode(), value.encode()) for name, value in AUTHORIZED.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
    answer = asyncio.create_task(site.app(scope, incoming.get, send))
    await asyncio.wait_for(blocked.wait(), 5)
    assert site.flash.closed.is_set()
    assert not answer.done()
    reading.set()
    await answer


async def test_a_stop_string_that_never_completes_is_text(site: Any) -> None:
    site.says("one two")
    assert (await site.chat(stop="two three")).json()["choices"][0]["message"]["content"] == "one two"


async def test_the_end_token_is_counted_but_not_text(site: Any) -> None:
    end = site.text.eos_token_ids[0]
    site.flash.script = [TokenChunk((*site.text.encode("yes"), end), finish=FinishReason.STOP)]
    body = (await site.chat()).json()
    assert body["choices"][0]["message"]["content"] == "yes"
    assert body["usage"]["completion_tokens"] == len(site.text.encode("yes")) + 1


async def test_one_event_per_round_and_the_first_with_the_role(site: Any) -> None:
    site.says("hello hello hello hello", tokens_per_round=2)
    found = events(await site.chat(stream=True))
    rounds = len(site.flash.script)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["finish_reason"] for event in found[:-1]] == [None] * (rounds + 1) + ["stop"]
    assert found[-1] == "[DONE]"
    assert all("usage" not in event for event in found[:-1])


async def test_running_usage_for_clients_that_ask(site: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    found = events(await site.chat(stream=True, stream_options=options))
    counts = [event["usage"]["completion_tokens"] for event in found[1:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == len(site.flash.script)
    assert "outrider" in found[-2]["usage"]


@pytest.mark.parametrize(
    ("fault", "status", "code", "retry"),
    [
        (Overloaded("full", retry_after_s=1.2), 429, "overloaded", ("2", "1200")),
        (NotReady("gone"), 503, "not_ready", ("1", "1000")),
        (TargetLost("died"), 503, "target_lost", (None, None)),
        (
            TokenChunk((), finish=FinishReason.ERROR, error="engine_fault: a step failed"),
            500,
            "engine_fault",
            (None, None),
        ),
        (TokenChunk((), finish=FinishReason.ERROR, error="no code"), 500, "runtime_fault", (None, None)),
        (TokenChunk((), finish=FinishReason.CANCELLED), 503, "target_lost", (None, None)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_before_the_first_token_has_its_status(
    site: Any, fault: Any, status: int, code: str, retry: tuple[str | None, str | None], stream: bool
) -> None:
    site.flash.script = [fault]
    response = await site.chat(stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert (response.headers.get("retry-after"), response.headers.get("retry-after-ms")) == retry
    assert site.flash.closed.is_set()
    assert site.app.state.gateway.running == 0


async def test_a_fault_within_a_stream_is_its_last_event(site: Any) -> None:
    site.flash.script = [site.text.encode("he"), TargetLost("the target died")]
    response = await site.chat(stream=True)
    found = events(response)
    assert response.status_code == 200
    assert found[-1]["error"]["code"] == "target_lost"
    assert "[DONE]" not in found
    assert text_of(found[:-1]) == "he"
    event = next(site.events.read())
    assert (event.outcome.status, event.outcome.error_code, event.outcome.completion_tokens) == (
        503,
        "target_lost",
        len(site.flash.script[0]),
    )


async def test_a_bug_within_a_stream_shows_no_details(site: Any) -> None:
    site.flash.script = [site.text.encode("he"), ValueError("secret")]
    response = await site.chat(stream=True)
    assert events(response)[-1]["error"]["code"] == "internal_error"
    assert "secret" not in response.text


async def test_a_stream_that_just_ends_is_a_lost_target(site: Any) -> None:
    class Silent:
        model = "flash"
        snapshots = site.flash.snapshots

        async def stream(self, request: Any, decision: Any) -> Any:
            yield TokenChunk(tuple(site.text.encode("he")))

    site.app.state.gateway._loads.upstreams["flash"] = Silent()
    assert (await site.chat()).json()["error"]["code"] == "target_lost"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_closes_the_upstream(site: Any, stream: bool) -> None:
    site.says("hello " * 100)
    site.flash.round_s = 0.02
    async with site.served() as url:
        async with httpx.AsyncClient(headers=AUTHORIZED) as client:
            if stream:
                async with client.stream("POST", f"{url}/chat/completions", json=CHAT | {"stream": True}) as response:
                    assert await anext(response.aiter_bytes())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    await client.post(f"{url}/chat/completions", json=CHAT, timeout=0.2)
        await asyncio.wait_for(site.flash.closed.wait(), 5)
        assert site.flash.sent < 100
        while site.app.state.gateway.running:
            await asyncio.sleep(0.01)
        event = next(site.events.read())
    assert (event.outcome.status, event.outcome.finish_reason) == (499, None)
    assert event.outcome.completion_tokens > 0


async def test_a_client_that_leaves_while_queued_closes_the_upstream(site: Any) -> None:
    site.flash.round_s = 60
    async with site.served() as url, httpx.AsyncClient(headers=AUTHORIZED) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{url}/chat/completions", json=CHAT | {"stream": True}, timeout=0.2)
        await asyncio.wait_for(site.flash.closed.wait(), 5)


async def test_a_cancelled_server_task_closes_the_upstream(site: Any) -> None:
    site.flash.round_s = 60
    call = asyncio.create_task(site.chat())
    while not site.flash.requests:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert site.flash.closed.is_set()
    assert site.app.state.gateway.running == 0


async def test_draining_refuses_new_requests_and_finishes_old_ones(site: Any) -> None:
    site.flash.round_s = 0.01
    gateway = site.app.state.gateway
    running = asyncio.create_task(site.chat(stream=True))
    while not site.flash.requests:
        await asyncio.sleep(0.005)
    gateway.drain()
    assert gateway.running == 1
    refused = await site.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert refused.headers["retry-after"] == "1"
    async with site.client() as client:
        health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "draining")
    assert events(await running)[-1] == "[DONE]"
    assert gateway.running == 0


async def test_sixteen_streams_at_once_do_not_mix(site: Any) -> None:
    site.says("hello there, one of sixteen")
    site.flash.round_s = 0.001
    answers = await asyncio.gather(*(site.chat(stream=True) for _ in range(16)))
    found = [events(answer) for answer in answers]
    assert {text_of(each) for each in found} == {"hello there, one of sixteen"}
    assert len({each[0]["id"] for each in found}) == 16
