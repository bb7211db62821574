"""The HTTP surface: routes in, answers out. Everything else is in the gateway behind it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from outrider.accounting import Accountant, Spending
from outrider.errors import InvalidRequest, OutriderError, RequestTooLarge
from outrider.gateway.asks import Endpoint, parse_ask
from outrider.gateway.call import Call, CallMiddleware, call_of
from outrider.gateway.errors import error_from_http, error_response, presentable
from outrider.gateway.openapi import describe, request_body
from outrider.gateway.opening import Assess
from outrider.gateway.response import GenerationResponse
from outrider.gateway.schema import ChatBody, CompletionBody, checked
from outrider.gateway.service import Caller, Gateway
from outrider.gateway.settings import GatewaySettings
from outrider.gateway.spending import OutcomeBody, add_spending
from outrider.gateway.tokens import DetokenizeBody, TokenizeBody, detokenized, tokenized
from outrider.gateway.upstream import Upstream
from outrider.gateway.validation import decode_object, whole_body
from outrider.policy import Policy, Tenant
from outrider.quality import by_tags
from outrider.telemetry import EventLog, Metrics
from outrider.text import TextModel

__all__ = ["create_app"]

GENERATION_PATHS: Mapping[str, Endpoint] = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}


def create_app(
    settings: GatewaySettings,
    policy: Callable[[], Policy],
    upstreams: Mapping[str, Upstream],
    texts: Mapping[str, TextModel],
    *,
    accountant: Accountant | None = None,
    spending: Spending | None = None,
    routers: Iterable[APIRouter] = (),
    assess: Assess = by_tags,
    metrics: Metrics | None = None,
    events: EventLog | None = None,
) -> FastAPI:
    """The application, with its `Gateway` at `app.state.gateway` (drain, running).

    policy returns the one in force at each request. upstreams and texts are keyed by model name and read live. Without
    `spending` there are no routes about money.
    Raises ConfigurationError where the event log cannot be written; the log is closed at shutdown.
    """
    gateway = Gateway(
        settings, policy, upstreams, texts, accountant=accountant, assess=assess, metrics=metrics, events=events
    )
    if events is not None:
        events.start()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if events is not None:
            events.close()

    app = FastAPI(title="Outrider", lifespan=lifespan, redirect_slashes=False)
    app.state.gateway = gateway
    app.add_middleware(CallMiddleware, report=_reporter(gateway.metrics), access_log=settings.access_log)
    app.add_exception_handler(OutriderError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    for path, body in (("/v1/chat/completions", ChatBody), ("/v1/completions", CompletionBody)):
        app.post(path, openapi_extra=request_body(body))(_generate(gateway, GENERATION_PATHS[path]))
    _add_queries(app, gateway)
    _add_tokens(app, gateway)
    if spending is not None:
        _add_spending(app, gateway, spending)
    for router in routers:
        app.include_router(router)
    describe(app, ChatBody, CompletionBody, TokenizeBody, DetokenizeBody, OutcomeBody)
    return app


def _generate(gateway: Gateway, endpoint: Endpoint) -> Callable[[Request], Any]:
    async def generate(request: Request) -> Response:
        caller, body = await _body(gateway, request)
        ask = parse_ask(endpoint, body, request.headers)
        return GenerationResponse(gateway, await gateway.open(call_of(request.scope), caller, ask, request.receive))

    return generate


def _add_queries(app: FastAPI, gateway: Gateway) -> None:
    """The read-only routes."""

    created = int(time.time())

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        caller = _caller(gateway, request)
        model = {"object": "model", "created": created, "owned_by": "outrider"}
        return _json({"object": "list", "data": [{"id": name, **model} for name in gateway.models(caller.tenant)]})

    @app.get("/v1/outrider/decisions/{decision_id}")
    async def decision(request: Request, decision_id: str) -> Response:
        caller = _caller(gateway, request)
        return _json(gateway.decision(caller.tenant, decision_id))

    @app.get("/health")
    async def health() -> Response:
        ready, state = gateway.health()
        return _json(state, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        body, content_type = gateway.metrics.render(request.headers.get("accept", ""))
        return Response(body, media_type=content_type)


def _add_tokens(app: FastAPI, gateway: Gateway) -> None:
    """vLLM's two routes about tokens."""

    @app.post("/tokenize", openapi_extra=request_body(TokenizeBody))
    async def tokenize(request: Request) -> Response:
        caller, body = await _body(gateway, request)
        return _json(await tokenized(checked(TokenizeBody, body), caller.tenant, caller.policy, gateway.texts))

    @app.post("/detokenize", openapi_extra=request_body(DetokenizeBody))
    async def detokenize(request: Request) -> Response:
        caller, body = await _body(gateway, request)
        return _json(detokenized(checked(DetokenizeBody, body), caller.tenant, caller.policy, gateway.texts))


def _add_spending(app: FastAPI, gateway: Gateway, spending: Spending) -> None:
    """What was spent: for tenants their own, for operators everybody's."""

    async def asked(request: Request) -> tuple[Tenant, dict[str, Any]]:
        caller, body = await _body(gateway, request)
        return caller.tenant, body

    add_spending(
        app,
        spending,
        tenant_of=lambda request: _caller(gateway, request).tenant,
        check_operator=lambda request: gateway.authenticate_operator(request.headers.get("authorization")),
        body_of=asked,
    )


async def _body(gateway: Gateway, request: Request) -> tuple[Caller, dict[str, Any]]:
    """Who calls, and the JSON object sent. Raises InvalidKey before anything is read."""
    caller = _caller(gateway, request)
    return caller, decode_object(await _read(request, gateway.settings.max_body_bytes))


def _caller(gateway: Gateway, request: Request) -> Caller:
    return gateway.authenticate(call_of(request.scope), request.headers.get("authorization"))


async def _read(request: Request, limit: int) -> bytes:
    """The whole body. Raises InvalidRequest for another content type, RequestTooLarge beyond `limit` bytes."""
    media_type, _, parameters = request.headers.get("content-type", "application/json").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if media_type.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise InvalidRequest("send the body as 'content-type: application/json' in UTF-8", param="content-type")
    return await whole_body(request, limit, RequestTooLarge(f"the body is longer than {limit} bytes"))


async def _refuse(request: Request, error: Exception) -> Response:
    """A typed error, or the framework's own, as an answer."""
    return error_response(error_from_http(error) if isinstance(error, HTTPException) else presentable(error))


def _reporter(metrics: Metrics) -> Callable[[Call], None]:
    def report(call: Call) -> None:
        metrics.answered(model=call.model, tenant=call.tenant, status=call.status)

    return report


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
