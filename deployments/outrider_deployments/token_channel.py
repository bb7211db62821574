"""The token channel: one ZeroMQ message per engine round from a target to a gateway, with all its chunks of that round.

A gateway binds one PULL socket; every target opens one PUSH per gateway. Load snapshots ride on each message and go
out alone when nothing runs. Frames are msgpack of typed values, checked on arrival; nothing on this channel is pickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from outrider.types import LoadSnapshot, TokenChunk
from outrider_deployments.sockets import PrivateEndpoint, Reach

if TYPE_CHECKING:
    from outrider.link import CurveKeys

__all__ = ["RoundMessage", "TokenPublisher", "TokenReceiver"]

logger = logging.getLogger(__name__)

HIGH_WATER_ROUNDS = 4096
"""Rounds a gateway may lag behind before it is given up: about a minute of them."""
PULSE_S = 0.1
"""How often a load that changed is told to gateways no round went to."""
SIGN_OF_LIFE_S = 1.0
"""How often one that did not change is told again."""


class RoundMessage(msgspec.Struct, frozen=True, array_like=True):
    """`channel` is random per PUSH socket and `number` counts its messages from 0: a gap means lost tokens."""

    channel: int
    number: int
    snapshot: LoadSnapshot
    chunks: Sequence[tuple[str, TokenChunk]] = ()
    """(request id, chunk) in the order they were emitted."""


@dataclass(slots=True)
class _Gateway:
    """One PUSH socket. Guarded by the publisher's lock: a ZeroMQ socket moves between threads only with a barrier."""

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    channel: int
    number: int = 0
    said: LoadSnapshot | None = None
    said_s: float = 0.0
    """What load it was told last, and when by the monotonic clock."""
    requests: set[str] = field(default_factory=set)

    def should_hear(self, load: LoadSnapshot, now_s: float) -> bool:
        return now_s - self.said_s >= SIGN_OF_LIFE_S or self.said != load


class TokenPublisher:
    """The target's end. `publish` runs on the engine thread and never blocks: ZeroMQ's I/O thread does the sending.

    A gateway that went away, or fell `HIGH_WATER_ROUNDS` behind, is dropped and `on_lost` is told which requests go
    with it. `snapshot` is asked every `PULSE_S` for what to say when no round does.
    """

    def __init__(
        self,
        snapshot: Callable[[], LoadSnapshot],
        on_lost: Callable[[Sequence[str]], None],
        keys: CurveKeys | None = None,
    ) -> None:
        """keys: the cluster's, for gateways on other hosts."""
        self._keys = keys
        self._snapshot = snapshot
        self._on_lost = on_lost
        self._context = zmq.Context()
        self._lock = threading.Lock()
        self._gateways: dict[str, _Gateway] = {}
        self._owner: dict[str, str] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._closing = threading.Event()
        self._pulse = threading.Thread(target=self._pulse_forever, name="load-pulse", daemon=True)
        self._pulse.start()

    def attach(self, endpoint: str) -> None:
        """Send load snapshots to the gateway at `endpoint` (ipc, or with keys tcp) from now on."""
        if not endpoint.startswith("ipc://" if self._keys is None else ("ipc://", "tcp://")):
            raise ValueError(f"token channels are ipc://, and tcp:// with the cluster's keys only, not {endpoint}")
        with self._lock:
            if endpoint not in self._gateways:
                self._gateways[endpoint] = self._open(endpoint)

    def expect(self, request_id: str, endpoint: str) -> None:
        """Route the chunks of a request to the gateway at `endpoint`. Call before the engine can emit any."""
        self.attach(endpoint)
        with self._lock:
            self._owner[request_id] = endpoint
            self._gateways[endpoint].requests.add(request_id)

    def forget(self, request_id: str) -> None:
        """Drop further chunks of a request; unknown ids are fine."""
        with self._lock:
            endpoint = self._owner.pop(request_id, None)
            if endpoint in self._gateways:
                self._gateways[endpoint].requests.discard(request_id)

    def publish(self, chunks: Sequence[tuple[str, TokenChunk]], snapshot: LoadSnapshot) -> None:
        """Send one round: one message to each gateway that has chunks in it. Never blocks."""
        lost: list[str] = []
        with self._lock:
            by_gateway: dict[str, list[tuple[str, TokenChunk]]] = {}
            for request_id, chunk in chunks:
                if (endpoint := self._owner.get(request_id)) is not None:
                    by_gateway.setdefault(endpoint, []).append((request_id, chunk))
            for endpoint, theirs in by_gateway.items():
                lost += self._send(endpoint, theirs, snapshot)
        if lost:
            self._on_lost(lost)

    def close(self) -> None:
        """Stop the pulse and give the last messages a second to leave."""
        self._closing.set()
        self._pulse.join()
        with self._lock:
            for endpoint in list(self._gateways):
                self._shut(endpoint, linger_ms=1000)
        self._context.term()

    def _open(self, endpoint: str) -> _Gateway:
        socket = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER_ROUNDS)
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        if self._keys is not None and endpoint.startswith("tcp://"):
            self._keys.join(socket)
        socket.connect(endpoint)
        return _Gateway(socket, monitor, channel=secrets.randbits(63))

    def _shut(self, endpoint: str, linger_ms: int = 0) -> list[str]:
        """Close a gateway's socket; returns its open requests."""
        gateway = self._gateways.pop(endpoint)
        gateway.socket.disable_monitor()
        gateway.monitor.close(linger=0)
        gateway.socket.close(linger=linger_ms)
        for request_id in gateway.requests:
            self._owner.pop(request_id, None)
        return list(gateway.requests)

    def _send(self, endpoint: str, chunks: Sequence[tuple[str, TokenChunk]], snapshot: LoadSnapshot) -> list[str]:
        """One message to one gateway; returns the requests lost with it if it no longer reads."""
        gateway = self._gateways[endpoint]
        # The engine stamps a load when it changes; this says that it is still so.
        stamped = snapshot if chunks else replace(snapshot, time_s=time.time())
        message = RoundMessage(gateway.channel, gateway.number, stamped, chunks)
        try:
            gateway.socket.send(self._encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            logger.warning("gateway %s no longer reads its tokens; dropped", endpoint)
            return self._shut(endpoint)
        gateway.number += 1
        gateway.said, gateway.said_s = snapshot, time.monotonic()
        return []

    def _pulse_forever(self) -> None:
        while not self._closing.wait(PULSE_S):
            load = self._snapshot()
            with self._lock:
                lost = self._drop_disconnected()
                now_s = time.monotonic()
                for endpoint in [e for e, gateway in self._gateways.items() if gateway.should_hear(load, now_s)]:
                    lost += self._send(endpoint, (), load)
            if lost:
                self._on_lost(lost)

    def _drop_disconnected(self) -> list[str]:
        """A gateway's Unix socket disconnects only when its process is gone; a new one has a new endpoint. Between
        hosts a connection that breaks may have lost rounds, which ends its requests as well.
        """
        gone = [endpoint for endpoint, gateway in self._gateways.items() if _disconnected(gateway.monitor)]
        return [request_id for endpoint in gone for request_id in self._shut(endpoint)]


def _disconnected(monitor: zmq.Socket[bytes]) -> bool:
    with contextlib.suppress(zmq.Again):
        event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
        return event["event"] == zmq.EVENT_DISCONNECTED
    return False


class TokenReceiver:
    """The gateway's end: decodes each round on the event loop and hands it on in one call.

    `on_round(message, whole)`: whole is False when messages of that channel were lost before this one.
    A frame that does not decode is counted, logged and dropped.
    """

    def __init__(self, on_round: Callable[[RoundMessage, bool], None], reach: Reach | None = None) -> None:
        """reach: for targets on other hosts; without, the socket is this user's on this host."""
        self._on_round = on_round
        self._private = None if reach else PrivateEndpoint("tokens")
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER_ROUNDS)
        if reach is not None:
            reach.keys.serve(self._socket)
        self._socket.bind(reach.address if reach else self._private_address)
        self.address = bytes(self._socket.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
        self._decoder = msgspec.msgpack.Decoder(RoundMessage)
        self._next: dict[int, int] = {}
        self._task = asyncio.get_running_loop().create_task(self._read())
        self.malformed = 0

    @property
    def _private_address(self) -> str:
        assert self._private is not None
        return self._private.address

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close(linger=0)
        self._context.term()
        if self._private is not None:
            self._private.close()

    async def _read(self) -> None:
        while True:
            frame = await self._socket.recv()
            try:
                message = self._decoder.decode(frame)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                self.malformed += 1
                logger.warning("malformed frame on the token channel: %s", error)
                continue
            whole = message.number == self._next.get(message.channel, 0)
            self._next[message.channel] = message.number + 1
            self._on_round(message, whole)
