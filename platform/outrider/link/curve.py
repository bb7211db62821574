"""Keys for sockets that leave a host: one secret for all of a cluster, from which every socket's CURVE keys are made.

Both ends of a connection hold the same pair. A client needs the server's public key to be understood at all, and this
one is never sent and told to nobody outside the cluster, so whoever can connect holds the secret; a server proves that
it does by answering. Traffic is encrypted with keys of its own for every connection (CurveZMQ, rfc.zeromq.org/spec/26).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final, Self

import zmq

from outrider.errors import ConfigurationError

__all__ = ["CLUSTER_KEY", "CurveKeys"]

CLUSTER_KEY: Final = "OUTRIDER_CLUSTER_KEY"
"""Environment variable: the secret, as `outrider keys cluster` prints one."""

HEARTBEAT_MS: Final = 2_000
SILENT_MS: Final = 10_000
"""A peer that has not answered for so long is disconnected: a host that loses its power says no goodbye. ZeroMQ's own
thread answers, so a process that is merely busy does."""


@dataclass(frozen=True, slots=True, repr=False)
class CurveKeys:
    """A pair in Z85, 40 characters each. Not printed: either half lets its holder in."""

    public: bytes
    secret: bytes

    @classmethod
    def of(cls, secret: str) -> Self:
        """The pair of a secret; raises ConfigurationError, without repeating it, for what is none."""
        try:
            if len(secret) != 40:
                raise ValueError
            return cls(zmq.curve_public(secret.encode("ascii")), secret.encode("ascii"))
        except (ValueError, zmq.ZMQError):
            raise ConfigurationError(
                f"{CLUSTER_KEY} is no key of 40 characters; `outrider keys cluster` prints one", param=CLUSTER_KEY
            ) from None

    @classmethod
    def from_environment(cls) -> Self:
        """Raises ConfigurationError where the variable is missing or no key."""
        secret = os.environ.get(CLUSTER_KEY)
        if not secret:
            raise ConfigurationError(
                f"sockets between hosts need {CLUSTER_KEY} in every replica's environment; `outrider keys cluster` "
                "prints one",
                param=CLUSTER_KEY,
            )
        return cls.of(secret)

    @staticmethod
    def new_secret() -> str:
        """A fresh secret for a cluster."""
        return zmq.curve_keypair()[1].decode("ascii")

    def serve(self, socket: zmq.Socket[Any]) -> None:
        """Let only holders of the secret connect to a socket; before it binds."""
        socket.curve_server = True
        socket.curve_secretkey, socket.curve_publickey = self.secret, self.public
        _watch(socket)

    def join(self, socket: zmq.Socket[Any]) -> None:
        """Make a socket one of the cluster's; before it connects."""
        socket.curve_serverkey = self.public
        socket.curve_secretkey, socket.curve_publickey = self.secret, self.public
        _watch(socket)


def _watch(socket: zmq.Socket[Any]) -> None:
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENT_MS)
