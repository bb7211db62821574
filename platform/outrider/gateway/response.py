"""The ASGI side of one answer: waits for the first chunk, then sends each as it comes, and notices who left."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from outrider.errors import OutriderError
from outrider.gateway.admission import Admission
from outrider.gateway.call import CLIENT_GONE
from outrider.gateway.choice import Piece
from outrider.gateway.errors import error_body, presentable
from outrider.gateway.leaving import while_connected
from outrider.gateway.reply import Reply
from outrider.gateway.service import Gateway
from outrider.gateway.shapes import Shapes
from outrider.gateway.wire import DONE, Answer, ChatWire, CompletionWire, Wire
from outrider.telemetry import RequestOutcome

__all__ = ["GenerationResponse"]

_log = logging.getLogger(__name__)
_encode = msgspec.json.encode

SSE_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""No cache and no proxy may hold a token back."""


class GenerationResponse(Response):
    """Iterates a reply and sends it. Errors before the first chunk are raised: they still get a status line."""

    def __init__(self, gateway: Gateway, reply: Reply) -> None:
        self.background = None
        self._gateway = gateway
        self._reply = reply
        self._ask = reply.admission.ask
        self._shapes = Shapes(reply.admission)
        self._wire = _wire(gateway, reply.admission)
        self._unopened = set(range(self._ask.choices))
        self._told: list[list[Piece]] = [[] for _ in range(self._ask.choices)]
        self._unended = self._ask.choices
        """Choices whose last piece has not been sent: one that waits for its turn has ended already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        """Whatever ends this, the reply's upstream is closed and the reply is settled."""
        status, shown = CLIENT_GONE, None
        self._gateway.begin()
        try:
            async with aclosing(self._reply.pieces()) as pieces:
                await (self._stream(pieces, send) if self._ask.stream else self._whole(pieces, send))
        except Exception as error:
            shown = presentable(error)
            status = shown.status
            raise
        finally:
            await self._gateway.settle(self._reply, status, shown)

    async def _whole(self, pieces: AsyncIterator[Piece], send: Send) -> None:
        async for piece in pieces:
            self._told[piece.index].append(piece)
        await self._gateway.settle(self._reply, 200, told=self._told)
        body = self._wire.body([self._shapes.whole(each) for each in self._told], _encode(self._reply.usage()))
        await self._start(send, b"application/json", (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, pieces: AsyncIterator[Piece], send: Send) -> None:
        started = False
        try:
            async for piece in pieces:
                events = await self._events(piece)
                if not started:
                    await self._start(send, b"text/event-stream; charset=utf-8", *SSE_HEADERS)
                    started = True
                if events:
                    await send({"type": "http.response.body", "body": events, "more_body": self._unended > 0})
        except Exception as error:
            if not started:
                raise
            if not isinstance(error, OutriderError):
                _log.exception("request %s failed while streaming", self._reply.admission.request_id)
            shown = presentable(error)
            await self._gateway.settle(self._reply, shown.status, shown)
            await send({"type": "http.response.body", "body": b"data: " + error_body(shown) + b"\n\n"})

    async def _events(self, piece: Piece) -> bytes:
        """The events of one piece: what it gained if anything, and after the last everything that closes the stream."""
        wire, index = self._wire, piece.index
        running = _encode(self._reply.counts()) if self._ask.continuous_usage else None
        parts: list[bytes] = []
        if self._reply.admission.cache_key is not None:
            self._told[index].append(piece)
        if index in self._unopened:
            self._unopened.discard(index)
            parts.append(wire.opening(index))
        if piece.calls or piece.logprobs:
            calls, logprobs = self._shapes.calls(piece.calls), self._shapes.logprobs(piece)
            parts.append(wire.delta(index, piece.text, calls, logprobs, running))
        elif piece.text:
            parts.append(wire.text(index, piece.text, running))
        if piece.finish is not None:
            parts.append(wire.finish(index, piece.finish, running))
            self._unended -= 1
            if not self._unended:
                parts += await self._closing()
        return b"".join(parts)

    async def _closing(self) -> list[bytes]:
        """What ends a stream whose choices have all ended, once it is durable what it cost."""
        await self._gateway.settle(self._reply, 200, told=self._told)
        usage = [self._wire.usage(_encode(self._reply.usage()))] if self._ask.include_usage else []
        return [*usage, DONE]

    async def _start(self, send: Send, content_type: bytes, *more: tuple[bytes, bytes]) -> None:
        outcome = self._reply.outcome(200)
        timing = b"server-timing", _timing(outcome)
        headers = [(b"content-type", content_type), *self._decision_headers(outcome), *more, timing]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    def _decision_headers(self, outcome: RequestOutcome) -> list[tuple[bytes, bytes]]:
        decision = self._reply.admission.decision
        named = {
            "model": decision.model,
            "depth-cap": str(decision.depth_cap),
            "batch-class": decision.batch_class.name,
            "policy": decision.policy_version,
            "lossless": decision.lossless,
            "class": decision.answer_class,
        }
        if self._reply.admission.cache_key is not None:
            named["cache"] = "hit" if outcome.cache_hit else "miss"
        return [(f"x-outrider-{name}".encode(), value.encode("latin-1", "replace")) for name, value in named.items()]


def _wire(gateway: Gateway, admission: Admission) -> Wire:
    answer = Answer(
        id=admission.decision.decision_id.removeprefix("dec-"),
        created=int(admission.time_s),
        model=admission.decision.model,
        system_fingerprint=gateway.system_fingerprint(admission.decision.model),
        service_tier=admission.tenant.tier.name if admission.ask.tell_tier else None,
    )
    kind = ChatWire if admission.ask.endpoint == "chat" else CompletionWire
    return kind(answer, admission.ask.choices, null_usage=admission.ask.include_usage)


def _timing(outcome: RequestOutcome) -> bytes:
    """What is known of where the time went; of a stream, at its first token."""
    spans = {
        "wait": outcome.wait_s,
        "queue": outcome.queue_s,
        "prefill": outcome.prefill_s,
        "ttft": outcome.ttft_s,
        "decode": outcome.decode_s,
        "total": None if outcome.finish_reason is None else outcome.e2e_s,
    }
    told = (f"{name};dur={span_s * 1e3:.1f}" for name, span_s in spans.items() if span_s is not None)
    return ", ".join(told).encode()
