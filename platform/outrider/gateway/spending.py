"""Routes about money: a tenant's own usage and workflows, and everybody's for operators."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, Protocol

import msgspec
from fastapi import FastAPI, Request, Response
from pydantic import Field

from outrider.accounting import Only, OutcomeReport, Span, Spending, SpendQuery, WorkflowQuery
from outrider.errors import AccountingUnavailable, DatabaseError, InvalidRequest
from outrider.gateway.openapi import request_body
from outrider.gateway.schema import checked
from outrider.gateway.validation import Body
from outrider.policy import Tenant

__all__ = ["OutcomeBody", "add_spending"]

_log = logging.getLogger(__name__)

MAX_SPAN_S = 400 * 86_400.0


class OutcomeBody(Body):
    """POST /v1/workflows/{id}/outcome: what became of a workflow. value: in a unit of the tenant's own."""

    outcome: Literal["success", "failure", "abandoned"]
    value: Annotated[float, Field(ge=-1e15, le=1e15)] | None = None
    note: Annotated[str, Field(max_length=500)] | None = None

    def report(self) -> OutcomeReport:
        """As accounting takes it."""
        return OutcomeReport(self.outcome, self.value, self.note)


def add_spending(
    app: FastAPI,
    spending: Spending,
    tenant_of: Callable[[Request], Tenant],
    check_operator: Callable[[Request], object],
    body_of: Callable[[Request], Awaitable[tuple[Tenant, Mapping[str, Any]]]],
) -> None:
    """Add the routes. The last three say who calls, raise where it is no operator, and read the JSON object sent."""

    @app.get("/v1/usage")
    async def usage(request: Request) -> Response:
        tenant = tenant_of(request)
        span, by_day = _usage_asked(request.query_params, time.time())
        return await _answer(spending.usage(tenant, span, by_day=by_day))

    @app.get("/v1/workflows/{workflow:path}")
    async def workflow(request: Request, workflow: str) -> Response:
        return await _answer(spending.workflow(tenant_of(request).name, workflow))

    @app.post("/v1/workflows/{workflow:path}/outcome", openapi_extra=request_body(OutcomeBody))
    async def outcome(request: Request, workflow: str) -> Response:
        tenant, body = await body_of(request)
        report = checked(OutcomeBody, body).report()
        return await _answer(spending.report_outcome(tenant.name, workflow, report))

    @app.get("/v1/outrider/spend")
    async def spend(request: Request) -> Response:
        check_operator(request)
        return await _answer(spending.spend(_spend_asked(request.query_params, time.time())))

    @app.get("/v1/outrider/spend/workflows")
    async def workflows(request: Request) -> Response:
        check_operator(request)
        return await _answer(spending.workflows(_workflows_asked(request.query_params, time.time())))


class _Shown(Protocol):
    def to_json(self) -> dict[str, Any]: ...


async def _answer(asked: Awaitable[_Shown]) -> Response:
    """Raises AccountingUnavailable where the ledger does not answer; why is the operator's business."""
    try:
        found = await asked
    except DatabaseError as error:
        _log.warning("what was spent cannot be said: %s", error.message)
        raise AccountingUnavailable("what was spent cannot be said now; try again later") from error
    return Response(msgspec.json.encode(found.to_json()), media_type="application/json")


def _usage_asked(params: Mapping[str, str], now_s: float) -> tuple[Span | None, bool]:
    """The span a tenant asks for (None is the present budget period) and whether by day. Raises InvalidRequest."""
    _refuse_unknown(params, ("start_time", "end_time", "bucket_width"))
    if params.get("bucket_width", "1d") != "1d":
        raise InvalidRequest("'bucket_width' must be 1d; without it the whole time is one bucket", param="bucket_width")
    if "start_time" not in params and "end_time" in params:
        raise InvalidRequest("'end_time' needs 'start_time'", param="end_time")
    span = _span(params, now_s) if "start_time" in params else None
    return span, "bucket_width" in params


ONLY = ("tenant", "team", "workflow")


def _only(params: Mapping[str, str]) -> Only:
    return Only(**{name: params.get(name) for name in ONLY})


def _spend_asked(params: Mapping[str, str], now_s: float) -> SpendQuery:
    _refuse_unknown(params, ("start_time", "end_time", "by", "time_zone", *ONLY))
    by, time_zone = params.get("by", "tenant"), params.get("time_zone", "UTC")
    return SpendQuery(_span(params, now_s), by, _only(params), time_zone)  # type: ignore[arg-type]  # it checks `by`


def _workflows_asked(params: Mapping[str, str], now_s: float) -> WorkflowQuery:
    _refuse_unknown(params, ("start_time", "end_time", "by", "top", *ONLY))
    top = params.get("top", "10")
    if not re.fullmatch("[0-9]{1,4}", top):
        raise InvalidRequest("'top' must be a whole number", param="top")
    by = params.get("by", "tenant")
    return WorkflowQuery(_span(params, now_s), by, _only(params), int(top))  # type: ignore[arg-type]  # it checks `by`


def _span(params: Mapping[str, str], now_s: float) -> Span:
    """From `start_time`, by default 30 days ago, to `end_time`, by default now."""
    span = Span(_seconds(params, "start_time", now_s - 30 * 86_400.0), _seconds(params, "end_time", now_s))
    if span.until_s - span.since_s > MAX_SPAN_S:
        raise InvalidRequest("a time range may span 400 days", param="start_time")
    return span


def _seconds(params: Mapping[str, str], name: str, default_s: float) -> float:
    try:
        value = float(params.get(name, default_s))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e11:
        raise InvalidRequest(f"'{name}' must be seconds of the epoch", param=name)
    return value


def _refuse_unknown(params: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in params:
        if name not in known:
            raise InvalidRequest(f"unknown parameter '{name[:100]}'; known: {', '.join(known)}", param=name[:100])
