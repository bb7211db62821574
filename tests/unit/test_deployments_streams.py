"""From the gateway's stream to the engine and back, over a real token channel and an engine that follows a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from ray.serve.exceptions import RequestCancelledError

from outrider.errors import InvalidRequest, NotReady, Overloaded, TargetLost
from outrider.types import (
    BatchClass,
    Decision,
    FinishReason,
    GenerationRequest,
    LoadSnapshot,
    RequestSummary,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
)
from outrider_deployments.open_requests import OpenRequests
from outrider_deployments.token_channel import TokenPublisher
from outrider_deployments.upstream import EventPace, GenerateCall, ServeUpstream, Upstreams

LOAD = LoadSnapshot("flash", "replica-1", epoch=1, time_s=0.0)
SUMMARY = RequestSummary(1, 1, 1, 0, 0, 0, 0.0, 0.0, 0.0)
DECISION = Decision("d", "flash", "", 7, BatchClass("balanced"), "v", "balanced", 0.1, 0.1, 0.0, None, 8)


def _request(name: str = "r1") -> GenerationRequest:
    return GenerationRequest(name, (1, 2, 3), SamplingParams(max_tokens=8))


class ScriptedEngine:
    """Submissions and cancellations are recorded; the test says what each round emits."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.cancelled: list[str] = []
        self.refusal: Exception | None = None

    def submit(self, request: GenerationRequest) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append(request.request_id)

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)


class Target:
    """A target replica without Serve: the handle call is a task on the same loop."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.publisher = TokenPublisher(lambda: LOAD, lambda names: self.requests.on_lost(names))
        self.requests = OpenRequests(self.engine, self.publisher)

    def generate(self, request: GenerationRequest, gateway: str, replica: str) -> GenerateCall:
        self.call = asyncio.ensure_future(self.requests.run(request, gateway))
        return self.call

    async def attach_gateway(self, gateway: str) -> None:
        self.publisher.attach(gateway)

    async def emit(self, *chunks: tuple[str, TokenChunk]) -> None:
        await self.until(lambda: {name for name, _ in chunks} <= set(self.engine.submitted))
        await asyncio.to_thread(self.requests.on_round, list(chunks), LOAD)

    async def until(self, condition: object) -> None:
        assert callable(condition)
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    yield target
    await asyncio.to_thread(target.publisher.close)


@pytest.fixture
async def upstreams(target: Target) -> AsyncIterator[Upstreams]:
    upstreams = Upstreams({"flash": target}, stale_s=3.0, events_per_s=10_000.0)
    yield upstreams
    await upstreams.close()


@pytest.fixture
def upstream(upstreams: Upstreams) -> ServeUpstream:
    return upstreams.by_model["flash"]


async def test_chunks_come_in_order_and_the_call_ends_with_the_last(target: Target, upstream: ServeUpstream) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4, 5))))
    assert (await first).tokens == (4, 5)
    await target.emit(("r1", TokenChunk((6,), finish=FinishReason.STOP, summary=SUMMARY)))
    assert [chunk.finish async for chunk in stream] == [FinishReason.STOP]
    await asyncio.wait_for(target.call, 10)
    assert target.engine.cancelled == []
    assert len(target.requests) == 0


async def test_closing_the_stream_cancels_the_request(target: Target, upstream: ServeUpstream) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4,))))
    await first
    await stream.aclose()  # type: ignore[attr-defined]
    await target.until(lambda: target.engine.cancelled == ["r1"])


async def test_a_cancellation_never_overtakes_its_submission(target: Target) -> None:
    order: list[str] = []
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def submit(request: GenerationRequest) -> None:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(10)
        order.append("submit")

    target.engine.submit = submit  # type: ignore[method-assign]
    target.engine.cancel = lambda name: order.append("cancel")  # type: ignore[method-assign]
    call = asyncio.ensure_future(target.requests.run(_request(), "ipc:///tmp/outrider-nobody"))
    await asyncio.sleep(0.02)
    call.cancel()
    await asyncio.wait({call})
    released.set()
    await target.until(lambda: len(order) == 2)
    assert order == ["submit", "cancel"]


async def test_what_the_engine_refuses_is_raised_on_the_stream(target: Target, upstream: ServeUpstream) -> None:
    target.engine.refusal = Overloaded("256 requests are queued for flash", retry_after_s=1.0)
    with pytest.raises(Overloaded, match="256 requests"):
        await anext(upstream.stream(_request(), DECISION))
    assert len(target.requests) == 0


async def test_a_dead_replica_ends_the_stream(upstream: ServeUpstream, target: Target) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4,))))
    await first
    target.requests._ends["r1"].set_exception(RuntimeError("the actor died"))
    with pytest.raises(TargetLost):
        await anext(stream)


async def test_a_cancelled_call_says_nothing_of_the_replica(upstream: ServeUpstream, target: Target) -> None:
    """Serve raises its own error from a call we cancelled; the model must not look lost to the next request."""
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4,))))
    await first
    target.requests._ends["r1"].set_exception(RequestCancelledError("r1"))
    with pytest.raises(NotReady):
        await anext(stream)
    assert upstream.snapshots() == [LOAD]


async def test_lost_tokens_end_the_stream_instead_of_corrupting_it(upstreams: Upstreams, target: Target) -> None:
    upstream = upstreams.by_model["flash"]
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4,))))
    await first
    gateway = next(iter(target.publisher._gateways.values()))
    gateway.number += 1
    await target.emit(("r1", TokenChunk((6,))))
    with pytest.raises(TargetLost, match="tokens were lost"):
        await anext(stream)


async def test_rounds_a_slow_reader_missed_come_as_one_chunk(target: Target, upstream: ServeUpstream) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4,))))
    assert (await first).tokens == (4,)
    arrived = upstream._streams["r1"]
    await target.emit(("r1", TokenChunk((5, 6))))
    await target.emit(("r1", TokenChunk((7,), finish=FinishReason.LENGTH, summary=SUMMARY)))
    await target.until(lambda: len(arrived) == 2)
    assert [chunk async for chunk in stream] == [TokenChunk((5, 6, 7), finish=FinishReason.LENGTH, summary=SUMMARY)]


async def test_merged_rounds_keep_every_log_probability(target: Target, upstream: ServeUpstream) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.until(lambda: "r1" in upstream._streams)
    entries = tuple(TokenLogprob(token, -0.1 * token, ((token, -0.1 * token),)) for token in range(3))
    arrived = upstream._streams["r1"]
    arrived.put(TokenChunk((0,), logprobs=entries[:1], prompt_logprobs=(None, entries[2])))
    arrived.put(TokenChunk((1, 2), logprobs=entries[1:]))
    assert await first == TokenChunk((0, 1, 2), logprobs=entries, prompt_logprobs=(None, entries[2]))
    await stream.aclose()


async def test_log_probabilities_cross_the_channel(target: Target, upstream: ServeUpstream) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    entry = TokenLogprob(4, -1.5, ((4, -1.5), (9, -2.0)))
    await target.emit(("r1", chunk := TokenChunk((4,), logprobs=(entry,), prompt_logprobs=(None, entry))))
    assert await first == chunk
    await stream.aclose()


async def test_tokens_before_an_error_are_delivered_and_none_after_it(target: Target, upstream: ServeUpstream) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4,))))
    await first
    arrived = upstream._streams["r1"]
    for item in (TokenChunk((5,)), TargetLost("gone"), TokenChunk((6,))):
        arrived.put(item)
    assert (await anext(stream)).tokens == (5,)
    with pytest.raises(TargetLost, match="gone"):
        await anext(stream)


async def test_many_streams_share_the_rate_of_events() -> None:
    pace = EventPace(400.0)
    pace.open_streams = 1
    assert pace.interval_s == pytest.approx(0.0025)
    pace.open_streams = 16
    assert pace.interval_s == pytest.approx(0.04)


async def test_a_paced_stream_merges_what_arrives_meanwhile(target: Target, upstream: ServeUpstream) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4,))))
    assert (await first).tokens == (4,)  # the first is never delayed
    upstream._pace.open_streams = 2_000  # 0.2 s between two events
    following = [asyncio.ensure_future(anext(stream))]
    await target.emit(("r1", TokenChunk((5,))))
    assert (await following[0]).tokens == (5,)  # paced by what was open when the last one left
    second = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((6,))))
    await target.emit(("r1", TokenChunk((7, 8))))
    assert (await second).tokens == (6, 7, 8)
    upstream._pace.open_streams = 1
    await stream.aclose()
    assert upstream._pace.open_streams == 0


async def test_the_end_of_a_paced_stream_is_not_kept_waiting(target: Target, upstream: ServeUpstream) -> None:
    """Also where it comes while an earlier round is held back: a short answer would take as long as a pause."""
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    upstream._pace.open_streams = 400_000  # more than half an hour between two events
    await target.emit(("r1", TokenChunk((4,))))
    await first
    rest = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((5,))))
    await asyncio.sleep(0.05)
    assert not rest.done()
    await target.emit(("r1", TokenChunk((6,), finish=FinishReason.LENGTH, summary=SUMMARY)))
    assert (await asyncio.wait_for(rest, 5)).tokens == (5, 6)
    assert [chunk async for chunk in stream] == []


async def test_an_id_in_use_is_refused_and_the_first_goes_on(target: Target, upstream: ServeUpstream) -> None:
    stream = upstream.stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.until(lambda: target.engine.submitted == ["r1"])
    with pytest.raises(InvalidRequest):
        await anext(upstream.stream(_request(), DECISION))
    await target.emit(("r1", TokenChunk((4,))))
    assert (await first).tokens == (4,)
    await stream.aclose()  # type: ignore[attr-defined]


async def test_load_is_known_before_the_first_request_and_forgotten_long_after_it_is_stale(
    upstream: ServeUpstream, target: Target
) -> None:
    await target.until(lambda: upstream.heard)
    (snapshot,) = upstream.snapshots()
    assert replace(snapshot, time_s=0.0) == LOAD
    for silence_s, known in ((4.0, 1), (40.0, 0)):
        heard_s = time.monotonic() - silence_s
        upstream._loads = {snapshot.replica: (heard_s, snapshot)}
        assert not upstream.heard
        assert len(upstream.snapshots()) == known


async def test_a_gateway_that_went_away_frees_its_requests(target: Target) -> None:
    upstreams = Upstreams({"flash": target}, stale_s=3.0, events_per_s=10_000.0)
    stream = upstreams.by_model["flash"].stream(_request(), DECISION)
    first = asyncio.ensure_future(anext(stream))
    await target.emit(("r1", TokenChunk((4,))))
    await first
    await upstreams.close()
    await target.until(lambda: target.engine.cancelled == ["r1"])
    with pytest.raises(TargetLost):
        await anext(stream)
    assert isinstance(target.call.exception(), TargetLost)
