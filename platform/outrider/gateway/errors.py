"""Errors on the wire: every failure in OpenAI's shape, with the headers its clients obey."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from outrider.errors import (
    BudgetExhausted,
    CapacityError,
    ConfigurationError,
    InvalidKey,
    InvalidRequest,
    MethodNotAllowed,
    NoFeasibleRoute,
    OutriderError,
    RouteNotFound,
    RuntimeFault,
)

__all__ = ["error_body", "error_from_chunk", "error_from_http", "error_response", "presentable"]

DEFAULT_RETRY_S = 1.0


def error_body(error: OutriderError) -> bytes:
    """`{"error": {message, type, param, code}}`."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


def error_response(error: OutriderError) -> Response:
    """The whole answer to a request that failed before its first byte."""
    return Response(error_body(error), error.status, dict(_headers(error)), "application/json")


def presentable(error: BaseException) -> OutriderError:
    """The error a tenant may see: typed ones as they are; an operator's or a bug's details stay in the log."""
    if isinstance(error, OutriderError) and not isinstance(error, ConfigurationError):
        return error
    return OutriderError("an internal error occurred; the platform has logged it under this request's id")


def error_from_http(error: HTTPException) -> OutriderError:
    """The framework's own refusals: unknown paths, wrong methods."""
    if error.status_code == 405:
        return MethodNotAllowed(f"this path does not take that method; it takes {(error.headers or {}).get('Allow')}")
    if error.status_code == 404:
        return RouteNotFound("no such path; see /v1/models, /v1/chat/completions and /v1/completions")
    return InvalidRequest(str(error.detail))


def error_from_chunk(text: str | None) -> OutriderError:
    """The typed error behind a chunk's `code: message`; an unknown code is a runtime fault."""
    code, _, message = (text or "").partition(": ")
    kind = _KINDS.get(code)
    return kind(message) if kind else RuntimeFault("the model failed while generating")


def _headers(error: OutriderError) -> Iterator[tuple[str, str]]:
    hopeless = isinstance(error, NoFeasibleRoute) and error.retry_after_s is None
    if hopeless or isinstance(error, BudgetExhausted):
        yield "x-should-retry", "false"
    if isinstance(error, InvalidKey):
        yield "www-authenticate", "Bearer"
    wait_s = error.retry_after_s
    if wait_s is None and isinstance(error, CapacityError) and not hopeless:
        wait_s = DEFAULT_RETRY_S
    if wait_s is not None:
        yield "retry-after", str(max(1, math.ceil(wait_s)))
        yield "retry-after-ms", str(max(1, math.ceil(wait_s * 1e3)))


def _leaves(kind: type[OutriderError]) -> Iterator[type[OutriderError]]:
    children = kind.__subclasses__()
    if not children:
        yield kind
    for child in children:
        yield from _leaves(child)


_KINDS = {leaf.code: leaf for leaf in _leaves(OutriderError)}
