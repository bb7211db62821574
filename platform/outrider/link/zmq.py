"""The separated link: DEALER at the target, ROUTER at the drafter, over ipc, or between hosts tcp with CURVE keys.

One message in, one reply out. Replies echo epoch and round, so that a late one is never taken for another
round's. A client that times out is dead for good: a new connection has a new identity, to which no late reply
is addressed.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from typing import Final

import zmq

from outrider.errors import ConfigurationError, DrafterMismatch, LinkError
from outrider.link.checks import check_block
from outrider.link.codec import Bye, Hello, LinkMessage, Refusal, Welcome, decode, encode
from outrider.link.curve import CLUSTER_KEY, CurveKeys
from outrider.link.messages import DraftBlock, DraftHandler, DraftRound, TargetHello

__all__ = ["ZmqDraftLink", "ZmqDraftService"]

_LOG: Final = logging.getLogger(__name__)
_MAX_PATH_BYTES: Final = 100  # sockaddr_un holds 108 on Linux and 104 elsewhere, with the final zero
_WAKE_MS: Final = 100
_BYE_LINGER_MS: Final = 100


def _ipc_path(endpoint: str, keys: CurveKeys | None) -> str | None:
    """The path of an ipc endpoint, None for tcp; raises `ConfigurationError` for others, and for tcp without keys."""
    scheme, separator, path = endpoint.partition("://")
    if scheme == "tcp" and separator:
        if keys is None:
            raise ConfigurationError(f"a draft link over tcp needs CURVE keys: use ipc://, or set {CLUSTER_KEY}")
        return None
    if scheme != "ipc" or not separator or not path.startswith("/"):
        raise ConfigurationError(f"{endpoint!r} is not a draft link endpoint: ipc:// and an absolute path")
    if len(os.fsencode(path)) >= _MAX_PATH_BYTES or "\0" in path:
        raise ConfigurationError(f"the draft link's socket path must be shorter than {_MAX_PATH_BYTES} bytes")
    return path


class ZmqDraftLink:
    """The target's end. One thread at a time uses it."""

    def __init__(self, socket: zmq.Socket[bytes], welcome: Welcome, vocab_size: int) -> None:
        self.welcome = welcome.drafter
        self._socket = socket
        self._vocab_size = vocab_size
        self._sent: DraftRound | None = None
        self._dead = ""

    @classmethod
    def connect(
        cls, endpoint: str, hello: TargetHello, timeout_s: float, keys: CurveKeys | None = None
    ) -> ZmqDraftLink:
        """Introduce a target to the drafter at `endpoint`, over tcp as a holder of the cluster's `keys`.

        Raises `DrafterMismatch` when it was made for another target, `LinkError` when it does not answer in time (nor
        does it to other keys) and `ConfigurationError` when the endpoint is neither an ipc path nor tcp with keys.
        """
        path = _ipc_path(endpoint, keys)
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            if path is None and keys is not None:
                keys.join(socket)
            socket.connect(endpoint)
            _send(socket, Hello(hello))
            welcome = _receive(socket, timeout_s)
            if not isinstance(welcome, Welcome) or welcome.drafter.block_size < 1:
                raise LinkError("the drafter answered the handshake with something else than a welcome")
            return cls(socket, welcome, hello.vocab_size)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise LinkError(f"the draft link cannot connect: {error}") from None
        except BaseException:
            socket.close(linger=0)
            raise

    def send(self, message: DraftRound) -> None:
        """Queue a round; raises `LinkError` when the last one was not received or the link is dead."""
        self._check_alive()
        if self._sent is not None:
            raise LinkError("a round was sent before the block of the last one was received")
        try:
            _send(self._socket, message)
        except LinkError as error:
            self._dead = error.message
            raise
        self._sent = message

    def receive(self, timeout_s: float) -> DraftBlock:
        """Wait for the block of the round sent last; raises `LinkError`, after which the link is dead."""
        self._check_alive()
        sent, self._sent = self._sent, None
        if sent is None:
            raise LinkError("nothing was sent on the draft link")
        try:
            block = _receive(self._socket, timeout_s)
            if not isinstance(block, DraftBlock):
                raise LinkError("the drafter answered a round with something else than a block")
            check_block(block, sent, block_size=self.welcome.block_size, vocab_size=self._vocab_size)
        except BaseException as error:
            self._dead = str(error) or type(error).__name__
            raise
        return block

    def close(self) -> None:
        """Say bye, without waiting, and close the socket. Idempotent."""
        if self._socket.closed:
            return
        self._dead = self._dead or "closed"
        try:
            _send(self._socket, Bye())
        except LinkError:
            _LOG.debug("the drafter could not be told that the target leaves")
        self._socket.close(linger=_BYE_LINGER_MS)

    def _check_alive(self) -> None:
        if self._dead:
            raise LinkError(f"the draft link is dead: {self._dead}")


def _send(socket: zmq.Socket[bytes], message: LinkMessage) -> None:
    """Queue one message without blocking; raises `LinkError`."""
    try:
        socket.send(encode(message), flags=zmq.NOBLOCK, copy=False)
    except zmq.ZMQError as error:
        raise LinkError(f"the draft link does not take a message: {error}") from None


def _receive(socket: zmq.Socket[bytes], timeout_s: float) -> LinkMessage:
    """The next message; raises `LinkError` on timeout or malformed frames, and what a refusal names."""
    try:
        if not socket.poll(math.ceil(timeout_s * 1000)):
            raise LinkError(f"the drafter did not answer within {timeout_s:g} s")
        frame, *others = socket.recv_multipart(copy=False)
    except zmq.ZMQError as error:
        raise LinkError(f"the draft link broke: {error}") from None
    if others:
        raise LinkError("a message of several frames came over the draft link")
    message = decode(frame.buffer)
    if isinstance(message, Refusal):
        kind = DrafterMismatch if message.code == DrafterMismatch.code else LinkError
        raise kind(message.message)
    return message


class ZmqDraftService:
    """The drafter's end: serves every client from one daemon thread, which alone calls the server.

    A client that has been silent for `idle_s` is freed but stays welcome: its sequences come back as missing
    and are refilled. So a target that died without a bye leaks nothing for long.
    """

    def __init__(
        self, server: DraftHandler, endpoint: str, *, idle_s: float = 300.0, keys: CurveKeys | None = None
    ) -> None:
        self._path = _ipc_path(endpoint, keys)
        self._keys = keys
        self._server = server
        self.endpoint = endpoint
        """Where to connect: once started, with the port that was found for `tcp://HOST:*`."""
        self._idle_s = idle_s
        self._heard_s: dict[bytes, float] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the service thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Bind, for this user or holders of the keys only, and serve; raises `ConfigurationError` when that fails."""
        if self._thread is not None:
            raise LinkError("the draft service was started twice")
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        try:
            if self._path is None and self._keys is not None:
                self._keys.serve(socket)
            socket.bind(self.endpoint)
            if self._path is not None:
                os.chmod(self._path, 0o600)
            else:
                self.endpoint = bytes(socket.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
        except (zmq.ZMQError, OSError) as error:
            socket.close()
            raise ConfigurationError(f"the draft service cannot listen at {self.endpoint}: {error}") from None
        self._thread = threading.Thread(target=self._serve, args=(socket,), name="draft-service", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the round at hand and stop listening. Idempotent, and final."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        try:
            while not self._stopping.is_set():
                if socket.poll(_WAKE_MS):
                    client, *frames = socket.recv_multipart(copy=False)
                    reply = self._answer(client.bytes, [frame.buffer for frame in frames])
                    if reply is not None:
                        socket.send_multipart([client.bytes, encode(reply)])
                self._forget_idle(time.monotonic())
        finally:
            socket.close()

    def _answer(self, client: bytes, frames: list[memoryview]) -> LinkMessage | None:
        """The reply to one message, None for a bye. No message of one client fails another's."""
        try:
            if len(frames) != 1:
                raise LinkError(f"a message of {len(frames)} frames came over the draft link")
            message = decode(frames[0])
            if isinstance(message, DraftRound):
                return self._draft(client, message)
            if isinstance(message, Hello):
                self._forget(client)
                welcome = Welcome(self._server.hello(message.target))
                self._heard_s[client] = time.monotonic()
                return welcome
            if isinstance(message, Bye):
                self._forget(client)
                return None
            raise LinkError("a target sent what only a drafter says")
        except (DrafterMismatch, LinkError) as error:
            return Refusal(error.code, error.message)
        except Exception as error:
            _LOG.exception("the drafter failed on a message")
            self._forget(client)
            return Refusal(LinkError.code, f"the drafter failed on a message ({type(error).__name__})")

    def _draft(self, client: bytes, message: DraftRound) -> DraftBlock:
        if client not in self._heard_s:
            raise LinkError("a round came before a hello: the drafter does not know this target")
        block = self._server.handle(client, message)
        self._heard_s[client] = time.monotonic()
        return block

    def _forget(self, client: bytes) -> None:
        self._heard_s.pop(client, None)
        self._server.forget_client(client)

    def _forget_idle(self, now_s: float) -> None:
        for client, heard_s in self._heard_s.items():
            if now_s - heard_s > self._idle_s:
                self._server.forget_client(client)
                self._heard_s[client] = now_s
