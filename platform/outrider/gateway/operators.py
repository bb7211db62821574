"""What operators ask over HTTP: the policy in force, its history, and changes to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import Field

from outrider.errors import DatabaseError, InvalidRequest, OutriderError, PolicyConflict, PolicyError
from outrider.gateway.errors import error_body
from outrider.gateway.schema import checked
from outrider.gateway.validation import Body, decode_object, whole_body
from outrider.policy import json_schema
from outrider.policy.control import PolicyControl
from outrider.policy.sources import Source

__all__ = ["operator_router"]

PREFIX = "/v1/outrider/policy"
MOST_BYTES = 64 * 2**20
"""A platform's file and its teams', sixteen MiB each at most."""
MOST_HISTORY = 1_000
STATUS: Mapping[type[OutriderError], int] = {PolicyError: 400, PolicyConflict: 409, DatabaseError: 503}
"""To tenants these are the platform's faults; who changes the policy is told what is wrong."""

Text = Annotated[str, Field(max_length=16 * 2**20)]


class DocumentBody(Body):
    """One file as typed."""

    file: Annotated[str, Field(min_length=1, max_length=1024)]
    text: Text


class CheckBody(Body):
    """POST …/check: the platform's document, then the teams'."""

    documents: Annotated[list[DocumentBody], Field(min_length=1, max_length=10_000)]


class ApplyBody(CheckBody):
    """POST …/apply. expected_version: the number of the version that the change was made from."""

    reason: Annotated[str, Field(min_length=1, max_length=2_000)]
    expected_version: Annotated[int, Field(ge=1)] | None = None


class RollbackBody(Body):
    """POST …/rollback: to the version before the present one, or to any."""

    reason: Annotated[str, Field(min_length=1, max_length=2_000)]
    version: Annotated[int, Field(ge=1)] | None = None


def operator_router(control: PolicyControl, operator: Callable[[Request], str]) -> APIRouter:
    """Routes under /v1/outrider/policy. operator: who asks, by name; raises InvalidKey or NotAnOperator."""
    router = APIRouter(prefix=PREFIX)

    @router.get("")
    async def current(request: Request) -> Response:
        operator(request)
        return await _answered(control.current)

    @router.get("/history")
    async def history(request: Request, limit: int = 50) -> Response:
        operator(request)
        if not 1 <= limit <= MOST_HISTORY:
            raise InvalidRequest(f"'limit' must be 1 to {MOST_HISTORY}", param="limit")
        return await _answered(lambda: control.history(limit))

    @router.get("/schema")
    async def schema(request: Request, team: bool = False) -> Response:
        operator(request)
        return _json(json_schema(team=team))

    @router.post("/check")
    async def check(request: Request) -> Response:
        operator(request)
        body = checked(CheckBody, await _body(request))
        return await _answered(lambda: control.check(_documents(body)))

    @router.post("/apply")
    async def apply(request: Request) -> Response:
        author = operator(request)
        body = checked(ApplyBody, await _body(request))
        change = {"author": author, "reason": body.reason, "expected_version": body.expected_version}
        return await _answered(lambda: control.apply(_documents(body), **change))  # type: ignore[arg-type]

    @router.post("/rollback")
    async def rollback(request: Request) -> Response:
        author = operator(request)
        body = checked(RollbackBody, await _body(request))
        return await _answered(lambda: control.rollback(body.version, author=author, reason=body.reason))

    return router


def _documents(body: CheckBody) -> tuple[Source, ...]:
    return tuple(Source(each.file, each.text) for each in body.documents)


async def _answered(ask: Callable[[], Awaitable[object]]) -> Response:
    try:
        return _json(await ask())
    except OutriderError as error:
        if (status := STATUS.get(type(error))) is None:
            raise
        return Response(error_body(error), status, media_type="application/json")


async def _body(request: Request) -> dict[str, Any]:
    too_long = InvalidRequest(f"the documents are longer than {MOST_BYTES} bytes together")
    return decode_object(await whole_body(request, MOST_BYTES, too_long))


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
