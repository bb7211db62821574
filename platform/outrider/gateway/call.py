"""One HTTP exchange: its id, its clock, its error net, its line in the access log. Pure ASGI."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outrider.accounting import RateLimits
from outrider.gateway.errors import error_response, presentable

__all__ = ["Call", "CallMiddleware", "call_of"]

_log = logging.getLogger(__name__)
_access = logging.getLogger("outrider.access")

CLIENT_GONE = 499
"""nginx's status for a client that left first; no client ever sees it."""

NO_LIMITS = RateLimits()
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class Call:
    """What is known of an exchange while it lasts. received_s: monotonic; empty fields were never known."""

    request_id: str
    received_s: float
    tenant: str = ""
    model: str = ""
    decision_id: str = ""
    limits: RateLimits = NO_LIMITS
    status: int = 0


def call_of(scope: MutableMapping[str, object]) -> Call:
    """The exchange a scope belongs to."""
    call = scope["outrider.call"]
    if not isinstance(call, Call):
        raise TypeError("CallMiddleware is not installed")
    return call


class CallMiddleware:
    """Outermost layer: every answer gets `x-request-id`, every failure OpenAI's shape, every call is reported."""

    def __init__(self, app: ASGIApp, report: Callable[[Call], None], access_log: bool) -> None:
        self._app = app
        self._report = report
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = Call(_request_id(scope), time.monotonic())
        scope["outrider.call"] = call

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message["headers"], *_ids(call)]
            await send(message)

        try:
            await self._app(scope, receive, identified)
        except ClientDisconnect:
            pass
        except Exception as error:
            _log.exception("request %s failed", call.request_id)
            if call.status:
                raise  # the answer has begun: only the server can still cut the connection
            await error_response(presentable(error))(scope, receive, identified)
        finally:
            call.status = call.status or CLIENT_GONE
            self._report(call)
            if self._access_log:
                _access.info(_access_line(scope, call))


def _ids(call: Call) -> Iterator[tuple[bytes, bytes]]:
    """Also on refusals: a decision that was never carried out has candidates that explain why."""
    yield b"x-request-id", call.request_id.encode()
    if call.decision_id:
        yield b"x-outrider-decision", call.decision_id.encode()
    for name, limit in (("requests", call.limits.requests), ("tokens", call.limits.tokens)):
        if limit is not None:
            yield f"x-ratelimit-limit-{name}".encode(), str(limit.limit).encode()
            yield f"x-ratelimit-remaining-{name}".encode(), str(max(0, limit.remaining)).encode()
            yield f"x-ratelimit-reset-{name}".encode(), f"{limit.reset_s:.3f}s".encode()


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _access_line(scope: Scope, call: Call) -> str:
    fields = {
        "request_id": call.request_id,
        "method": scope["method"],
        "path": scope["path"],
        "status": call.status,
        "tenant": call.tenant,
        "model": call.model,
        "wall_s": round(time.monotonic() - call.received_s, 4),
    }
    return msgspec.json.encode(fields).decode()
