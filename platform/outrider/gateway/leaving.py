"""Clients that leave before their answer has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive

__all__ = ["disconnected", "while_connected"]


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or the client leaves, whichever is first; leaving cancels it and waits for that."""
    running = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        left = not running.done()
        leaving.cancel()
        running.cancel()
        await asyncio.gather(running, leaving, return_exceptions=True)
    if not left:
        running.result()


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left; the request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
