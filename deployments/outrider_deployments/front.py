"""The gateway's own port: requests reach it without Serve's proxy, whose hop costs as much CPU as the gateway itself.

Every gateway of a host listens on the same port (SO_REUSEPORT) and the kernel spreads connections over them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from outrider.errors import ConfigurationError, PortInUse

__all__ = ["HttpFront"]

logger = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than the minute after which load balancers drop an idle connection: whoever closes first must not be us."""


class HttpFront:
    """An HTTP server on the running event loop, listening from construction until `close`.

    Raises PortInUse, or ConfigurationError for an address this machine does not have.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._socket = _listening(host, port)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",  # Serve runs the application's
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        logger.info("listening on %s:%d", host, port)

    async def close(self) -> None:
        """Take no new connection, let answers that have begun finish, and return when the last one has."""
        self._server.should_exit = True
        with suppress(asyncio.CancelledError):
            await self._serving
        self._socket.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} on {host} is taken: stop what listens there, or choose another") from error
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", param="listen"
        ) from error
    return listening
