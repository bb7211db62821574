"""Whatever is sent arrives; whatever arrives is a message or a LinkError, and the service survives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from tempfile import TemporaryDirectory

import msgspec
import pytest
import torch
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from outrider.errors import LinkError
from outrider.link import DraftBlock, DrafterWelcome, DraftRound, TargetHello, ZmqDraftService
from outrider.link.codec import Bye, Hello, LinkMessage, Refusal, Welcome, decode, encode

INT63 = st.integers(0, 2**63 - 1)
KEYS = st.lists(INT63, max_size=4, unique=True).map(tuple)
HELLO = Hello(TargetHello("target", 10, 4, "0" * 64))


def ints(size: int) -> st.SearchStrategy[Tensor]:
    values = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=size, max_size=size)
    return values.map(lambda items: torch.tensor(items, dtype=torch.int64))


def floats(*shape: int) -> st.SearchStrategy[Tensor]:
    size = torch.Size(shape).numel()
    values = st.lists(st.floats(width=32), min_size=size, max_size=size)
    return values.map(lambda items: torch.tensor(items, dtype=torch.float32).reshape(shape))


@st.composite
def rounds(draw: st.DrawFn) -> DraftRound:
    appends, rows, width, proposals = (draw(st.integers(0, 4)) for _ in range(4))
    return DraftRound(
        draw(INT63),
        draw(INT63),
        draw(KEYS),
        *(draw(ints(appends)) for _ in range(3)),
        draw(floats(rows, width)),
        draw(ints(rows)),
        *(draw(ints(proposals)) for _ in range(3)),
        *(draw(floats(proposals)) for _ in range(2)),
        *(draw(ints(proposals)) for _ in range(2)),
        draw(ints(draw(st.sampled_from((0, proposals))))),
        draw(floats(draw(st.sampled_from((0, proposals))))),
        draw(ints(draw(st.sampled_from((0, proposals))))),
    )


@st.composite
def blocks(draw: st.DrawFn) -> DraftBlock:
    proposals, gamma = draw(st.integers(0, 4)), draw(st.integers(1, 8))
    tokens = draw(ints(proposals * gamma)).reshape(proposals, gamma)
    confidence = draw(floats(proposals, gamma))
    judged, places = draw(st.integers(0, proposals)), gamma * draw(st.integers(0, 3))
    q = draw(ints(judged * places)).reshape(judged, places), draw(floats(judged, places))
    return DraftBlock(draw(INT63), draw(INT63), tokens, confidence, draw(KEYS), draw(st.floats(0, 1e9)), *q)


MESSAGES = st.one_of(
    rounds(),
    blocks(),
    st.builds(Hello, st.builds(TargetHello, st.text(), st.integers(0, 2**40), st.integers(0, 2**40), st.text())),
    st.builds(Welcome, st.builds(DrafterWelcome, INT63, st.integers(0, 2**40), st.text(), st.integers(0, 2**40))),
    st.builds(Refusal, st.text(), st.text()),
    st.just(Bye()),
)


def on_the_wire(message: LinkMessage) -> bytearray:
    return bytearray(encode(message))


@st.composite
def spoilt(draw: st.DrawFn) -> bytearray:
    """The frame of a good message after a few accidents, or one that never was one."""
    if draw(st.booleans()):
        return bytearray(draw(st.binary(max_size=40)))
    frame = on_the_wire(draw(MESSAGES))
    for _ in range(draw(st.integers(1, 3))):
        accident = draw(st.sampled_from(["cut", "flip", "drop", "repeat", "swap", "grow"]))
        begin, end = sorted(draw(st.integers(0, len(frame))) for _ in range(2))
        if accident == "cut":
            del frame[begin:]
        elif accident == "flip" and begin < len(frame):
            frame[begin] ^= draw(st.integers(1, 255))
        elif accident == "drop":
            del frame[begin:end]
        elif accident == "repeat":
            frame[end:end] = frame[begin:end]
        elif accident == "swap":
            frame = frame[end:] + frame[begin:end] + frame[:begin]
        elif accident == "grow":
            frame += draw(st.binary(min_size=1, max_size=9))
    return frame


@given(MESSAGES)
def test_messages_arrive_as_they_were_sent(message: LinkMessage) -> None:
    arrived = decode(on_the_wire(message))
    assert type(arrived) is type(message)
    if not isinstance(message, DraftRound | DraftBlock):
        assert arrived == message
        return
    for field in fields(message):
        sent, got = getattr(message, field.name), getattr(arrived, field.name)
        if isinstance(sent, Tensor):
            assert sent.dtype == got.dtype
            assert torch.equal(sent.isnan(), got.isnan())
            assert torch.equal(sent.nan_to_num(), got.nan_to_num())
            assert sent.shape == got.shape
        else:
            assert sent == got


@settings(max_examples=300)
@given(spoilt())
def test_whatever_arrives_is_a_message_or_a_link_error(frame: bytearray) -> None:
    try:
        message = decode(frame)
    except LinkError:
        return
    assert isinstance(message, DraftRound | DraftBlock | Hello | Welcome | Refusal | Bye)


@pytest.mark.parametrize("frame", [b"", b"\1", bytes(4), b"\xff\xff\xff\xff", encode(HELLO)[:-1], encode(HELLO) + b"x"])
def test_a_frame_of_the_wrong_length_is_a_link_error(frame: bytes) -> None:
    with pytest.raises(LinkError):
        decode(frame)


@pytest.mark.parametrize("shape", [(0, 2**63 - 1), (2**62, 0), (0, 0, 0), (2**62, 4), (), (1,)])
def test_a_shape_its_bytes_do_not_fill_is_a_link_error(shape: tuple[int, ...]) -> None:
    block = encode(DraftBlock(1, 1, torch.empty(0, dtype=torch.int64), torch.empty(0)))
    header = msgspec.msgpack.decode(block[4:]) | {"shapes": (shape, (0,))}
    encoded = msgspec.msgpack.encode(header)
    with pytest.raises(LinkError):
        decode(len(encoded).to_bytes(4, "little") + encoded)


class Acceptor:
    """Welcomes everybody; refuses every round, as a server does one it cannot check."""

    def hello(self, hello: TargetHello) -> DrafterWelcome:
        return DrafterWelcome(1, 2, "acceptor", 4)

    def handle(self, client: bytes, message: DraftRound, *, trusted: bool = False) -> DraftBlock:
        raise LinkError("not drafting")

    def forget_client(self, client: bytes) -> None:
        pass


@contextmanager
def dealer(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context.instance().socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        yield socket


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with TemporaryDirectory() as directory:
        service = ZmqDraftService(Acceptor(), f"ipc://{directory}/draft.sock")
        service.start()
        yield f"ipc://{directory}/draft.sock"
        service.stop()


def reply(socket: zmq.Socket[bytes]) -> LinkMessage:
    assert socket.poll(10_000)
    return decode(bytearray(socket.recv()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.lists(spoilt(), min_size=1, max_size=3), max_size=4))
def test_the_service_answers_a_good_client_after_any_bad_one(
    endpoint: str, messages: Sequence[Sequence[bytearray]]
) -> None:
    with dealer(endpoint) as bad, dealer(endpoint) as good:
        for frames in messages:
            bad.send_multipart(frames)
        bad.send(encode(HELLO))
        while not isinstance(answer := reply(bad), Welcome):
            assert isinstance(answer, Refusal)
        good.send(encode(HELLO))
        assert isinstance(reply(good), Welcome)
