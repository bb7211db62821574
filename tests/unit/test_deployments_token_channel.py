"""The token channel over real ZeroMQ sockets: everything arrives once and in order, and nobody blocks the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
import zmq

from outrider.types import FinishReason, LoadSnapshot, RequestSummary, TokenChunk
from outrider_deployments import token_channel
from outrider_deployments.token_channel import RoundMessage, TokenPublisher, TokenReceiver

SUMMARY = RequestSummary(3, 4, 2, 14, 6, 2, 0.0, 0.1, 0.2, ((3, 1), (3, 1)))


def _load(**changes: int) -> LoadSnapshot:
    return LoadSnapshot("flash", "replica-1", epoch=7, time_s=1.0, step_curve=((1, 0.01), (8, 0.02)), **changes)


class Inbox:
    """A receiver whose messages can be awaited."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[RoundMessage, bool]] = asyncio.Queue()
        self.receiver = TokenReceiver(lambda message, whole: self.messages.put_nowait((message, whole)))

    async def round(self) -> tuple[RoundMessage, bool]:
        """The next message that carries chunks."""
        while True:
            message, whole = await asyncio.wait_for(self.messages.get(), 10)
            if message.chunks:
                return message, whole


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    inbox = Inbox()
    yield inbox
    await inbox.receiver.close()


@pytest.fixture
async def publisher() -> AsyncIterator[TokenPublisher]:
    publisher = TokenPublisher(_load, lambda ids: None)
    yield publisher
    await asyncio.to_thread(publisher.close)


async def test_a_round_arrives_as_it_was_sent(inbox: Inbox, publisher: TokenPublisher) -> None:
    publisher.expect("a", inbox.receiver.address)
    publisher.expect("b", inbox.receiver.address)
    chunks = [("a", TokenChunk((5, 6))), ("b", TokenChunk((9,), finish=FinishReason.STOP, summary=SUMMARY))]
    publisher.publish(chunks, _load(running_requests=2))
    message, whole = await inbox.round()
    assert whole
    assert list(message.chunks) == chunks
    assert message.snapshot == _load(running_requests=2)


async def test_each_gateway_gets_its_own_requests_only(publisher: TokenPublisher) -> None:
    one, other = Inbox(), Inbox()
    publisher.expect("a", one.receiver.address)
    publisher.expect("b", other.receiver.address)
    publisher.publish([("a", TokenChunk((1,))), ("b", TokenChunk((2,))), ("unknown", TokenChunk((3,)))], _load())
    assert [name for name, _ in (await one.round())[0].chunks] == ["a"]
    assert [name for name, _ in (await other.round())[0].chunks] == ["b"]
    await one.receiver.close()
    await other.receiver.close()


async def test_a_forgotten_request_sends_nothing_more(inbox: Inbox, publisher: TokenPublisher) -> None:
    publisher.expect("a", inbox.receiver.address)
    publisher.expect("b", inbox.receiver.address)
    publisher.forget("a")
    publisher.publish([("a", TokenChunk((1,))), ("b", TokenChunk((2,)))], _load())
    assert [name for name, _ in (await inbox.round())[0].chunks] == ["b"]


async def test_load_is_told_without_any_request(inbox: Inbox, publisher: TokenPublisher) -> None:
    publisher.attach(inbox.receiver.address)
    message, _ = await asyncio.wait_for(inbox.messages.get(), 10)
    assert replace(message.snapshot, time_s=1.0) == _load()
    assert message.snapshot.time_s > 1.0  # stamped when it was said, not when the load last changed
    assert not message.chunks


async def test_a_gap_in_the_numbers_is_noticed(inbox: Inbox) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(inbox.receiver.address)
    chunks = [("a", TokenChunk((1,)))]
    encode = token_channel.msgspec.msgpack.encode
    for number in (0, 1, 3, 4):
        socket.send(encode(RoundMessage(11, number, _load(), chunks)))
    assert [(await inbox.round())[1] for _ in range(4)] == [True, True, False, True]
    context.destroy(linger=0)


@pytest.mark.parametrize("frame", [b"", b"\xff\x00", b"\x80", b"\x91\xa1x", b"[0, 1]"])
async def test_a_malformed_frame_disturbs_nobody(inbox: Inbox, publisher: TokenPublisher, frame: bytes) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(inbox.receiver.address)
    socket.send(frame)
    while not inbox.receiver.malformed:
        await asyncio.sleep(0.01)
    publisher.expect("a", inbox.receiver.address)
    publisher.publish([("a", TokenChunk((1,)))], _load())
    assert (await inbox.round())[1]
    context.destroy(linger=0)


async def test_a_gateway_that_stops_reading_is_dropped_and_never_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_channel, "HIGH_WATER_ROUNDS", 8)
    lost: list[str] = []

    def on_lost(ids: Sequence[str]) -> None:
        lost.extend(ids)

    publisher = TokenPublisher(_load, on_lost)
    publisher.expect("a", "ipc:///tmp/outrider-nobody-listens")  # connects, and is never read
    for _ in range(100):
        publisher.publish([("a", TokenChunk((1,)))], _load())
    assert lost == ["a"]
    await asyncio.to_thread(publisher.close)


async def test_a_gateway_that_dies_takes_its_requests_with_it() -> None:
    lost: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    publisher = TokenPublisher(
        _load, lambda ids: [loop.call_soon_threadsafe(lost.put_nowait, name) for name in ids] and None
    )
    inbox = Inbox()
    publisher.expect("a", inbox.receiver.address)
    publisher.publish([("a", TokenChunk((1,)))], _load())
    await inbox.round()
    await inbox.receiver.close()
    assert await asyncio.wait_for(lost.get(), 10) == "a"
    await asyncio.to_thread(publisher.close)


async def test_only_unix_sockets_are_spoken_to(publisher: TokenPublisher) -> None:
    with pytest.raises(ValueError, match="ipc"):
        publisher.attach("tcp://127.0.0.1:5555")
