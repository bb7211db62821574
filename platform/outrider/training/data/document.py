"""One training document and the rule that decides whether it is trained on or held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypedDict

__all__ = ["Document", "Domain", "Message", "Split", "chat", "split_of"]

Domain = Literal["code", "maths", "prose", "tasks"]
Split = Literal["train", "heldout"]

HELD_OUT_PERCENT = 4


class Message(TypedDict):
    """One turn of a conversation, as an OpenAI body and the chat template want it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Document:
    """A conversation, or a plain text when `messages` is empty.

    `source` names what the document was taken from: a library file, a documentation topic, or the question itself
    for generated items. Everything from one source falls on the same side of the split.
    `answer` is the exact result where there is one.
    """

    domain: Domain
    kind: str
    source: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    answer: str | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation without its last (assistant) turn."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        return self.messages[-1]["content"]


def chat(domain: Domain, kind: str, source: str, question: str, response: str, answer: str | None = None) -> Document:
    """A one-turn conversation."""
    turns: tuple[Message, ...] = (
        {"role": "user", "content": question},
        {"role": "assistant", "content": response},
    )
    return Document(domain, kind, source, turns, answer=answer)


def split_of(source: str, heldout_percent: int = HELD_OUT_PERCENT) -> Split:
    """Deterministic split by a hash of the source, the same on every machine."""
    bucket = int.from_bytes(hashlib.sha256(source.encode()).digest()[:4], "big") % 100
    return "heldout" if bucket < heldout_percent else "train"
