"""Both links keep one protocol; the ZeroMQ one survives timeouts, restarts and strangers."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest
import torch
import zmq

from outrider.errors import ConfigurationError, DrafterMismatch, LinkError
from outrider.link import (
    DraftBlock,
    DrafterWelcome,
    DraftLink,
    DraftRound,
    InProcessLink,
    TargetHello,
    ZmqDraftLink,
    ZmqDraftService,
)
from outrider.link.codec import Buffer, Bye, Hello, LinkMessage, Refusal, Welcome, decode, encode

GAMMA, VOCAB, HIDDEN = 3, 1000, 4
HELLO = TargetHello("target", VOCAB, HIDDEN, "f" * 64)
WAIT_S = 10.0


class CountingDrafter:
    """A handler that drafts anchor+1, anchor+2, … and can be told to stall, to fail or to answer another round."""

    def __init__(self, epoch: int = 5) -> None:
        self.welcome = DrafterWelcome(epoch, GAMMA, "counting", HIDDEN)
        self.rounds: list[DraftRound] = []
        self.forgotten: list[bytes] = []
        self.forgot = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.fail_with: BaseException | None = None
        self.round_shift = 0

    def hello(self, hello: TargetHello) -> DrafterWelcome:
        if hello.vocab_size != VOCAB:
            raise DrafterMismatch(f"made for {VOCAB}, not {hello.vocab_size}")
        return self.welcome

    def handle(self, client: bytes, message: DraftRound, *, trusted: bool = False) -> DraftBlock:
        self.open.wait(WAIT_S)
        if message.epoch != self.welcome.epoch:
            raise LinkError("another incarnation")
        if self.fail_with is not None:
            failure, self.fail_with = self.fail_with, None
            raise failure
        self.rounds.append(message)
        tokens = message.anchors[:, None] + torch.arange(1, GAMMA + 1)
        return DraftBlock(
            message.epoch, message.round + self.round_shift, tokens, torch.zeros(tokens.shape), draft_s=0.5
        )

    def forget_client(self, client: bytes) -> None:
        self.forgotten.append(client)
        self.forgot.set()


def ask(anchor: int, round_number: int = 1, epoch: int = 5) -> DraftRound:
    column = torch.zeros(1, dtype=torch.int64)
    return DraftRound(
        epoch,
        round_number,
        propose_keys=column,
        anchors=column + anchor,
        positions=column,
        temperature=torch.zeros(1),
        top_p=torch.ones(1),
        seeds=column,
        choices=column,
    )


def drafted(link: DraftLink, anchor: int, round_number: int = 1) -> list[int]:
    link.send(ask(anchor, round_number, link.welcome.epoch))
    return link.receive(WAIT_S).tokens[0].tolist()


@pytest.fixture
def endpoint() -> Iterator[str]:
    with TemporaryDirectory() as directory:  # pytest's own tmp_path can exceed what a socket path holds
        yield f"ipc://{directory}/draft.sock"


@pytest.fixture
def drafter() -> CountingDrafter:
    return CountingDrafter()


@pytest.fixture
def service(drafter: CountingDrafter, endpoint: str) -> Iterator[ZmqDraftService]:
    service = ZmqDraftService(drafter, endpoint)
    service.start()
    yield service
    drafter.open.set()
    service.stop()


class Stranger:
    """A client that says what it likes over its own socket."""

    def __init__(self, endpoint: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def say(self, *frames: Buffer) -> None:
        self.socket.send_multipart(frames)

    def ask(self, *frames: Buffer) -> LinkMessage:
        self.say(*frames)
        assert self.socket.poll(WAIT_S * 1000)
        return decode(self.socket.recv(copy=False).buffer)


@pytest.fixture
def stranger(service: ZmqDraftService, endpoint: str) -> Iterator[Stranger]:
    stranger = Stranger(endpoint)
    yield stranger
    stranger.socket.close()


@pytest.fixture(params=["inprocess", "zmq"])
def link(request: pytest.FixtureRequest, drafter: CountingDrafter, endpoint: str) -> Iterator[DraftLink]:
    if request.param == "inprocess":
        yield InProcessLink(drafter, HELLO)
        return
    request.getfixturevalue("service")
    link = ZmqDraftLink.connect(endpoint, HELLO, WAIT_S)
    yield link
    link.close()


def test_rounds_come_back_as_blocks(link: DraftLink) -> None:
    assert link.welcome == DrafterWelcome(5, GAMMA, "counting", HIDDEN)
    assert drafted(link, 10, 1) == [11, 12, 13]
    assert drafted(link, 20, 2) == [21, 22, 23]


def test_a_round_without_proposals_gets_an_empty_block(link: DraftLink, drafter: CountingDrafter) -> None:
    column = torch.ones(1, dtype=torch.int64)
    rows = torch.rand(1, HIDDEN, dtype=torch.bfloat16)
    link.send(DraftRound(5, 1, (3, 2**63 - 1), column, column * 0, column, rows, column + 6))
    block = link.receive(WAIT_S)
    assert block.tokens.shape == (0, GAMMA)
    assert drafter.rounds[0].frees == (3, 2**63 - 1)
    assert torch.equal(drafter.rounds[0].rows.float(), rows.float())
    assert drafter.rounds[0].append_tokens.tolist() == [7]


def test_one_round_at_a_time(link: DraftLink) -> None:
    with pytest.raises(LinkError):
        link.receive(WAIT_S)
    link.send(ask(1))
    with pytest.raises(LinkError):
        link.send(ask(2))


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_answer_to_another_round_kills_the_link(link: DraftLink, drafter: CountingDrafter, shift: int) -> None:
    drafter.round_shift = shift
    link.send(ask(1, 2))
    with pytest.raises(LinkError):
        link.receive(WAIT_S)
    drafter.round_shift = 0
    with pytest.raises(LinkError):
        link.send(ask(1, 3))


def test_a_failing_drafter_is_a_link_error(link: DraftLink, drafter: CountingDrafter) -> None:
    drafter.fail_with = ZeroDivisionError("inside")
    link.send(ask(1))
    with pytest.raises(LinkError, match="ZeroDivisionError"):
        link.receive(WAIT_S)
    with pytest.raises(LinkError):
        link.send(ask(2))


def test_closing_twice_frees_once(link: DraftLink, drafter: CountingDrafter) -> None:
    assert drafted(link, 1) == [2, 3, 4]
    drafter.forgotten.clear()
    drafter.forgot.clear()
    link.close()
    link.close()
    assert drafter.forgot.wait(WAIT_S)
    assert len(drafter.forgotten) == 1
    with pytest.raises(LinkError):
        link.send(ask(1))


def test_a_mismatch_arrives_with_its_code_and_message(service: ZmqDraftService, endpoint: str) -> None:
    with pytest.raises(DrafterMismatch, match=r"^made for 1000, not 7$"):
        ZmqDraftLink.connect(endpoint, TargetHello("other", 7, HIDDEN, "f" * 64), WAIT_S)
    with pytest.raises(DrafterMismatch):
        InProcessLink(CountingDrafter(), TargetHello("other", 7, HIDDEN, "f" * 64))


def test_nobody_at_the_endpoint_is_a_link_error(endpoint: str) -> None:
    with pytest.raises(LinkError):
        ZmqDraftLink.connect(endpoint, HELLO, 0.05)


@pytest.mark.parametrize(
    "bad",
    [
        "tcp://127.0.0.1:5000",
        "ipc://relative.sock",
        "ipc://@abstract",
        "inproc://x",
        "/no/scheme",
        "ipc:///" + "x" * 99,
    ],
)
def test_endpoints_that_are_no_short_ipc_path_are_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError):
        ZmqDraftService(CountingDrafter(), bad)
    with pytest.raises(ConfigurationError):
        ZmqDraftLink.connect(bad, HELLO, 0.05)


def test_a_directory_that_does_not_exist_is_refused() -> None:
    with TemporaryDirectory() as directory, pytest.raises(ConfigurationError):
        ZmqDraftService(CountingDrafter(), f"ipc://{directory}/absent/draft.sock").start()


def test_the_socket_is_for_this_user_only(service: ZmqDraftService, endpoint: str) -> None:
    mode = os.stat(endpoint.removeprefix("ipc://")).st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_after_a_timeout_the_link_is_dead_and_a_late_reply_reaches_nobody(
    service: ZmqDraftService, drafter: CountingDrafter, endpoint: str
) -> None:
    late = ZmqDraftLink.connect(endpoint, HELLO, WAIT_S)
    drafter.open.clear()
    late.send(ask(1))
    with pytest.raises(LinkError):
        late.receive(0.02)
    drafter.open.set()
    with pytest.raises(LinkError):
        late.send(ask(2))
    with pytest.raises(LinkError):
        late.receive(WAIT_S)
    late.close()
    fresh = ZmqDraftLink.connect(endpoint, HELLO, WAIT_S)
    assert drafted(fresh, 100) == [101, 102, 103]
    fresh.close()


def test_a_restarted_drafter_is_a_link_error_then_a_new_epoch(endpoint: str) -> None:
    first = ZmqDraftService(CountingDrafter(epoch=5), endpoint)
    first.start()
    old = ZmqDraftLink.connect(endpoint, HELLO, WAIT_S)
    assert drafted(old, 1) == [2, 3, 4]
    first.stop()
    second = ZmqDraftService(CountingDrafter(epoch=6), endpoint)
    second.start()
    try:
        old.send(ask(1, 2))
        with pytest.raises(LinkError):
            old.receive(WAIT_S)
        old.close()
        new = ZmqDraftLink.connect(endpoint, HELLO, WAIT_S)
        assert new.welcome.epoch == 6
        assert drafted(new, 1) == [2, 3, 4]
        new.close()
    finally:
        second.stop()


def test_a_drafter_that_fails_on_one_client_serves_the_other(
    service: ZmqDraftService, drafter: CountingDrafter, endpoint: str
) -> None:
    unlucky, lucky = (ZmqDraftLink.connect(endpoint, HELLO, WAIT_S) for _ in range(2))
    drafter.fail_with = ZeroDivisionError("inside")
    unlucky.send(ask(1))
    with pytest.raises(LinkError, match="ZeroDivisionError"):
        unlucky.receive(WAIT_S)
    assert drafted(lucky, 1) == [2, 3, 4]
    unlucky.close()
    lucky.close()


def test_strangers_get_a_refusal_and_disturb_nobody(
    stranger: Stranger, drafter: CountingDrafter, endpoint: str
) -> None:
    link = ZmqDraftLink.connect(endpoint, HELLO, WAIT_S)
    no_hello, drafters_line = encode(ask(1)), encode(Welcome(drafter.welcome))
    for frames in (
        [b""],
        [b"\xc1"],
        [b"not msgpack", b"x"],
        [no_hello],
        [no_hello[:-1]],
        [drafters_line],
        [encode(Hello(HELLO)), b""],
    ):
        reply = stranger.ask(*frames)
        assert isinstance(reply, Refusal)
        assert reply.code == LinkError.code
    assert drafter.rounds == []
    assert drafted(link, 1) == [2, 3, 4]
    link.close()


def test_a_reply_of_several_frames_is_a_link_error(endpoint: str) -> None:
    with zmq.Context.instance().socket(zmq.ROUTER) as drafter:
        drafter.linger = 0
        drafter.bind(endpoint)

        def answer() -> None:
            client, _ = drafter.recv_multipart()
            drafter.send_multipart([client, encode(Welcome(DrafterWelcome(5, GAMMA, "two", HIDDEN))), b""])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(LinkError, match="several frames"):
            ZmqDraftLink.connect(endpoint, HELLO, WAIT_S)
        thread.join()


def test_a_second_hello_clears_the_client(stranger: Stranger, drafter: CountingDrafter) -> None:
    assert isinstance(stranger.ask(encode(Hello(HELLO))), Welcome)
    drafter.forgotten.clear()
    assert isinstance(stranger.ask(encode(Hello(HELLO))), Welcome)
    assert len(drafter.forgotten) == 1


def test_a_bye_ends_the_acquaintance(stranger: Stranger, drafter: CountingDrafter) -> None:
    stranger.ask(encode(Hello(HELLO)))
    assert isinstance(stranger.ask(encode(ask(1))), DraftBlock)
    stranger.say(encode(Bye()))
    assert isinstance(stranger.ask(encode(ask(1))), Refusal)


def test_a_refused_hello_is_no_acquaintance(stranger: Stranger) -> None:
    stranger.ask(encode(Hello(HELLO)))
    other = TargetHello("other", 7, HIDDEN, "f" * 64)
    assert isinstance(stranger.ask(encode(Hello(other))), Refusal)
    assert isinstance(stranger.ask(encode(ask(1))), Refusal)


def test_a_silent_client_is_freed_but_stays_welcome(drafter: CountingDrafter, endpoint: str) -> None:
    service = ZmqDraftService(drafter, endpoint, idle_s=0.0)
    service.start()
    link = ZmqDraftLink.connect(endpoint, HELLO, WAIT_S)
    drafter.forgot.clear()
    assert drafter.forgot.wait(WAIT_S)
    assert drafted(link, 1) == [2, 3, 4]
    link.close()
    service.stop()


def test_stopping_ends_the_thread_and_is_idempotent(drafter: CountingDrafter, endpoint: str) -> None:
    service = ZmqDraftService(drafter, endpoint)
    service.start()
    assert service.alive
    service.stop()
    service.stop()
    assert not service.alive


def test_the_in_process_link_needs_neither_zmq_nor_msgspec() -> None:
    script = "import sys, outrider.link; print({'zmq', 'msgspec'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
