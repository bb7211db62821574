"""Bytes of OpenAI's answers, whole or as server-sent events.

A stream's chunks differ in a few bytes only, so everything else is encoded once per request: a chunk costs one
JSON string and a join.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["DONE", "Answer", "ChatWire", "CompletionWire", "Wire", "WrittenChoice"]

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Answer:
    """What every chunk of one answer repeats. created: whole seconds of the epoch. service_tier: None tells none."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class WrittenChoice:
    """One choice of a whole answer. logprobs and calls are in the endpoint's own shape."""

    text: str
    reason: str
    logprobs: dict[str, Any] | None
    calls: Sequence[dict[str, Any]]


class Wire:
    """One answer's encoder. Subclasses name the objects and shape the choice.

    null_usage: OpenAI puts `"usage": null` on every chunk of a stream that ends with a usage chunk.
    """

    prefix: str
    chunk_object: str
    body_object: str
    text_open: bytes
    text_close: bytes

    def __init__(self, answer: Answer, choices: int, *, null_usage: bool) -> None:
        self._answer = answer
        self._null_usage = b',"usage":null' if null_usage else b""
        self._head = b"data: " + self._envelope(self.chunk_object)[:-1] + b',"choices":['
        self._opens = [b'%s{"index":%d,' % (self._head, index) for index in range(choices)]
        self._text_opens = [opened + self.text_open for opened in self._opens]

    def opening(self, index: int) -> bytes:
        """What a choice's stream begins with, before any text."""
        return b""

    def text(self, index: int, text: str, usage: bytes | None = None) -> bytes:
        """One event with text; `usage` is the running usage of a client that asked for it in every chunk."""
        return b"".join((self._text_opens[index], _encode(text), self.text_close, self._usage(usage), b"}\n\n"))

    def delta(
        self, index: int, text: str, calls: Sequence[dict[str, Any]], logprobs: object, usage: bytes | None = None
    ) -> bytes:
        """One event with whatever a choice gained."""
        middle = b',"logprobs":' + _encode(logprobs) + b',"finish_reason":null}]'
        return b"".join((self._opens[index], self._gain(text, calls), middle, self._usage(usage), b"}\n\n"))

    def finish(self, index: int, reason: str, usage: bytes | None = None) -> bytes:
        """The event that says why a choice ended."""
        end = b',"logprobs":null,"finish_reason":' + _encode(reason) + b"}]"
        return b"".join((self._opens[index], self._gain("", ()), end, self._usage(usage), b"}\n\n"))

    def usage(self, usage: bytes) -> bytes:
        """The last event of a stream that asked for usage: no choices."""
        return b"".join((self._head, b'],"usage":', usage, b"}\n\n"))

    def body(self, choices: Sequence[WrittenChoice], usage: bytes) -> bytes:
        """The whole answer at once."""
        written = _encode([self._choice(index, choice) for index, choice in enumerate(choices)])
        return b"".join((self._envelope(self.body_object)[:-1], b',"choices":', written, b',"usage":', usage, b"}"))

    def _gain(self, text: str, calls: Sequence[dict[str, Any]]) -> bytes:
        """The field of a chunk's choice that grows; with nothing to tell, as the last event has it."""
        raise NotImplementedError

    def _choice(self, index: int, choice: WrittenChoice) -> dict[str, object]:
        raise NotImplementedError

    def _usage(self, usage: bytes | None) -> bytes:
        return self._null_usage if usage is None else b',"usage":' + usage

    def _envelope(self, kind: str) -> bytes:
        answer = self._answer
        tier = {} if answer.service_tier is None else {"service_tier": answer.service_tier}
        return _encode(
            {
                "id": self.prefix + answer.id,
                "object": kind,
                "created": answer.created,
                "model": answer.model,
                "system_fingerprint": answer.system_fingerprint,
                **tier,
            }
        )


class ChatWire(Wire):
    """`/v1/chat/completions`."""

    prefix = "chatcmpl-"
    chunk_object = "chat.completion.chunk"
    body_object = "chat.completion"
    text_open = b'"delta":{"content":'
    text_close = b'},"logprobs":null,"finish_reason":null}]'

    def opening(self, index: int) -> bytes:
        delta = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return b"".join((self._opens[index], delta, self._null_usage, b"}\n\n"))

    def _gain(self, text: str, calls: Sequence[dict[str, Any]]) -> bytes:
        delta = ({"content": text} if text else {}) | ({"tool_calls": calls} if calls else {})
        return b'"delta":' + _encode(delta)

    def _choice(self, index: int, choice: WrittenChoice) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": choice.calls}
        return {"index": index, "message": message, "logprobs": choice.logprobs, "finish_reason": choice.reason}


class CompletionWire(Wire):
    """`/v1/completions`."""

    prefix = "cmpl-"
    chunk_object = "text_completion"
    body_object = "text_completion"
    text_open = b'"text":'
    text_close = b',"logprobs":null,"finish_reason":null}]'

    def _gain(self, text: str, calls: Sequence[dict[str, Any]]) -> bytes:
        return b'"text":' + _encode(text)

    def _choice(self, index: int, choice: WrittenChoice) -> dict[str, object]:
        return {"index": index, "text": choice.text, "logprobs": choice.logprobs, "finish_reason": choice.reason}
