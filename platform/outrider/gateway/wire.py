"""Bytes of OpenAI's answers, whole or as server-sent events.

A stream's chunks differ in a few bytes only, so everything else is encoded once per request: a chunk costs one
JSON string and three joins.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

__all__ = ["DONE", "Answer", "ChatWire", "CompletionWire", "Wire"]

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Answer:
    """What every chunk of one answer repeats. `created` is in whole seconds of the wall clock."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class Wire:
    """One answer's encoder. Subclasses name the objects and shape the choice.

    null_usage: OpenAI puts `"usage": null` on every chunk of a stream that ends with a usage chunk.
    """

    prefix: str
    chunk_object: str
    body_object: str
    text_open: bytes
    text_close: bytes

    def __init__(self, answer: Answer, *, null_usage: bool) -> None:
        self._answer = answer
        self._null_usage = b',"usage":null' if null_usage else b""
        self._head = b"data: " + self._envelope(self.chunk_object)[:-1] + b',"choices":['

    def opening(self) -> bytes:
        """What a stream begins with, before any text."""
        return b""

    def delta(self, text: str, usage: bytes | None = None) -> bytes:
        """One event with text; `usage` is the running usage of a client that asked for it in every chunk."""
        return b"".join(
            (self._head, self.text_open, _encode(text), self.text_close, b"null}]", self._usage(usage), b"}\n\n")
        )

    def finish(self, reason: str, usage: bytes | None = None) -> bytes:
        """The event that says why the stream ended."""
        return self._finish(_encode(reason), self._usage(usage))

    def usage(self, usage: bytes) -> bytes:
        """The last event of a stream that asked for usage: no choices."""
        return b"".join((self._head, b'],"usage":', usage, b"}\n\n"))

    def body(self, text: str, reason: str, usage: bytes) -> bytes:
        """The whole answer at once."""
        choice = self._choice(text, reason)
        return b"".join(
            (self._envelope(self.body_object)[:-1], b',"choices":[', _encode(choice), b'],"usage":', usage, b"}")
        )

    def _finish(self, reason: bytes, usage: bytes) -> bytes:
        raise NotImplementedError

    def _choice(self, text: str, reason: str) -> dict[str, object]:
        raise NotImplementedError

    def _usage(self, usage: bytes | None) -> bytes:
        return self._null_usage if usage is None else b',"usage":' + usage

    def _envelope(self, kind: str) -> bytes:
        answer = self._answer
        return _encode(
            {
                "id": self.prefix + answer.id,
                "object": kind,
                "created": answer.created,
                "model": answer.model,
                "system_fingerprint": answer.system_fingerprint,
            }
        )


class ChatWire(Wire):
    """`/v1/chat/completions`."""

    prefix = "chatcmpl-"
    chunk_object = "chat.completion.chunk"
    body_object = "chat.completion"
    text_open = b'{"index":0,"delta":{"content":'
    text_close = b'},"logprobs":null,"finish_reason":'

    def opening(self) -> bytes:
        delta = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return b"".join((self._head, delta, self._null_usage, b"}\n\n"))

    def _finish(self, reason: bytes, usage: bytes) -> bytes:
        delta = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":'
        return b"".join((self._head, delta, reason, b"}]", usage, b"}\n\n"))

    def _choice(self, text: str, reason: str) -> dict[str, object]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}


class CompletionWire(Wire):
    """`/v1/completions`."""

    prefix = "cmpl-"
    chunk_object = "text_completion"
    body_object = "text_completion"
    text_open = b'{"index":0,"text":'
    text_close = b',"logprobs":null,"finish_reason":'

    def _finish(self, reason: bytes, usage: bytes) -> bytes:
        choice = b'{"index":0,"text":"","logprobs":null,"finish_reason":'
        return b"".join((self._head, choice, reason, b"}]", usage, b"}\n\n"))

    def _choice(self, text: str, reason: str) -> dict[str, object]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
