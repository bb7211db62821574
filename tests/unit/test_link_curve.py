"""Sockets between hosts: real ZeroMQ over TCP, and what happens to those who do not hold the cluster's secret."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
import zmq

from outrider.drafter.model import DSparkModel
from outrider.drafter.server import DraftServer
from outrider.errors import ConfigurationError, LinkError
from outrider.link import CurveKeys, TargetHello, ZmqDraftLink, ZmqDraftService, curve
from outrider.link.curve import CLUSTER_KEY
from outrider.types import LoadSnapshot, TokenChunk
from outrider_deployments.sockets import Reach
from outrider_deployments.token_channel import RoundMessage, TokenPublisher, TokenReceiver
from support.tiny import TinyPair

KEYS = CurveKeys.of(CurveKeys.new_secret())
LOAD = LoadSnapshot("flash", "replica-1", epoch=7, time_s=1.0, step_curve=((1, 0.01), (8, 0.02)))
HELLO_S = 5.0
REFUSED_S = 0.5


@pytest.fixture
def service(pair: TinyPair) -> Iterator[ZmqDraftService]:
    served = ZmqDraftService(DraftServer(DSparkModel.load(pair.drafter), "d"), "tcp://127.0.0.1:*", keys=KEYS)
    served.start()
    yield served
    served.stop()


def hello(pair: TinyPair) -> TargetHello:
    from outrider.engine import TargetModel

    projection = TargetModel.load(pair.target, drafter=pair.drafter).projection
    assert projection is not None
    return TargetHello("tiny", 97, 48, projection.fingerprint)


def test_a_holder_of_the_secret_is_served(service: ZmqDraftService, pair: TinyPair) -> None:
    assert service.endpoint.startswith("tcp://127.0.0.1:")
    assert not service.endpoint.endswith("*")
    again = CurveKeys.of(KEYS.secret.decode())
    link = ZmqDraftLink.connect(service.endpoint, hello(pair), HELLO_S, again)
    assert link.welcome.block_size == 7
    link.close()


def test_others_get_no_answer(service: ZmqDraftService, pair: TinyPair) -> None:
    stranger = CurveKeys.of(CurveKeys.new_secret())
    with pytest.raises(LinkError, match="did not answer"):
        ZmqDraftLink.connect(service.endpoint, hello(pair), REFUSED_S, stranger)
    plain = zmq.Context.instance().socket(zmq.DEALER)
    plain.connect(service.endpoint)
    plain.send(b"anything")
    assert not plain.poll(int(REFUSED_S * 1000))
    plain.close(linger=0)
    assert service.alive


def test_tcp_without_keys_is_refused(pair: TinyPair) -> None:
    with pytest.raises(ConfigurationError, match=CLUSTER_KEY):
        ZmqDraftLink.connect("tcp://127.0.0.1:1", hello(pair), REFUSED_S)
    with pytest.raises(ConfigurationError, match=CLUSTER_KEY):
        ZmqDraftService(DraftServer(DSparkModel.load(pair.drafter), "d"), "tcp://127.0.0.1:*")


@pytest.mark.parametrize("secret", ["", "short", "\u00e9" * 40, " " * 40, "x" * 41])
def test_what_is_no_secret_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CurveKeys.of(secret)
    assert not secret.strip() or secret not in str(caught.value)


def test_the_environment_must_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLUSTER_KEY, raising=False)
    with pytest.raises(ConfigurationError, match=CLUSTER_KEY):
        CurveKeys.from_environment()
    monkeypatch.setenv(CLUSTER_KEY, KEYS.secret.decode())
    assert CurveKeys.from_environment() == KEYS
    assert KEYS.secret.decode() not in repr(KEYS)


async def test_tokens_come_over_tcp_from_holders_only() -> None:
    heard: list[RoundMessage] = []
    receiver = TokenReceiver(lambda message, _: heard.append(message), Reach("127.0.0.1", KEYS))
    lost: list[str] = []
    stranger = TokenPublisher(lambda: LOAD, lost.extend, CurveKeys.of(CurveKeys.new_secret()))
    holder = TokenPublisher(lambda: LOAD, lost.extend, KEYS)
    try:
        for publisher, name in ((stranger, "theirs"), (holder, "ours")):
            publisher.expect(name, receiver.address)
            publisher.publish([(name, TokenChunk((1, 2)))], LOAD)
        with suppress(TimeoutError):
            async with asyncio.timeout(HELLO_S):
                while not any(message.chunks for message in heard):
                    await asyncio.sleep(0.01)
        await asyncio.sleep(REFUSED_S)
        assert {name for message in heard for name, _ in message.chunks} == {"ours"}
    finally:
        await asyncio.to_thread(holder.close)
        await asyncio.to_thread(stranger.close)
        await receiver.close()


def test_a_gateway_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process closes no connection, like a host without power."""
    monkeypatch.setattr(curve, "HEARTBEAT_MS", 50)
    monkeypatch.setattr(curve, "SILENT_MS", 500)
    script = (
        "import sys, zmq; from outrider.link import CurveKeys; s = zmq.Context().socket(zmq.PULL); "
        "CurveKeys.of(sys.argv[1]).serve(s); s.bind('tcp://127.0.0.1:*'); "
        "print(s.get(zmq.LAST_ENDPOINT).decode().rstrip(chr(0)), flush=True); "
        "[print(len(s.recv()), flush=True) for _ in iter(int, 1)]"
    )
    gateway = subprocess.Popen(
        [sys.executable, "-c", script, KEYS.secret.decode()], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert gateway.stdout is not None
    given_up = threading.Event()
    lost: list[str] = []

    def on_lost(ids: Sequence[str]) -> None:
        lost.extend(ids)
        given_up.set()

    publisher = TokenPublisher(lambda: LOAD, on_lost, KEYS)
    try:
        publisher.expect("ours", gateway.stdout.readline().strip())
        assert int(gateway.stdout.readline()) > 0
        assert lost == []
        gateway.send_signal(signal.SIGSTOP)
        assert given_up.wait(30.0)
        assert lost == ["ours"]
    finally:
        gateway.kill()
        gateway.wait()
        gateway.stdout.close()
        publisher.close()
