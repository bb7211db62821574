"""Log-probabilities beside the text they belong to, and OpenAI's two ways of writing them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from outrider.text import Detokenizer, TextModel
from outrider.types import TokenLogprob

__all__ = ["LogprobTrack", "Placed", "chat_logprobs", "completion_logprobs", "prompt_places"]

LEAST = -9999.0
"""What OpenAI says of a token that cannot come; JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A token's entry and where its text begins, in characters. entry None: nothing stands before the token."""

    token: int
    entry: TokenLogprob | None
    offset: int


class LogprobTrack:
    """One choice's entries until their text is released: what a stop string cuts off is never told.

    A token without text of its own (a piece of a character, a special token) goes with the text that follows.
    """

    def __init__(self, detokenizer: Detokenizer, *, offset: int = 0) -> None:
        """offset: where the text begins in what the tenant sees."""
        self._offset = offset
        self._detokenizer = detokenizer
        self._held: deque[tuple[TokenLogprob, int, int]] = deque()
        """(entry, start, end) of tokens whose text is known, in characters of the choice's text."""
        self._unfinished: list[TokenLogprob] = []
        self._characters = 0

    def push(self, tokens: Sequence[int], entries: Sequence[TokenLogprob]) -> str:
        """The text that became certain, token by token; an upstream that sends no entries loses none of it."""
        return "".join([self._push_one(token, entry) for token, entry in zip_longest(tokens, entries[: len(tokens)])])

    def flush(self) -> str:
        """The text held at the end of the stream."""
        text = self._detokenizer.flush()
        self._place(len(text))
        return text

    def released(self, characters: int) -> list[Placed]:
        """Entries whose text lies within the first `characters`, each told once."""
        told: list[Placed] = []
        while self._held and self._held[0][2] <= characters:
            entry, start, _ = self._held.popleft()
            told.append(Placed(entry.token, entry, start + self._offset))
        return told

    def _push_one(self, token: int, entry: TokenLogprob | None) -> str:
        text = self._detokenizer.push((token,))
        if entry is not None:
            self._unfinished.append(entry)
        if text:
            self._place(len(text))
        return text

    def _place(self, length: int) -> None:
        start, self._characters = self._characters, self._characters + length
        self._held.extend((entry, start, self._characters) for entry in self._unfinished)
        self._unfinished.clear()


def prompt_places(text: TextModel, tokens: Sequence[int], entries: Sequence[TokenLogprob | None]) -> list[Placed]:
    """A prompt's entries, special tokens being as long as their names."""
    places, written = [], b""
    for token, entry in zip(tokens, entries, strict=False):
        places.append(Placed(token, entry, len(written.decode("utf-8", "ignore"))))
        written += text.token_text(token)
    return places


def chat_logprobs(text: TextModel, places: Iterable[Placed], most: int) -> dict[str, object]:
    """`choices[].logprobs` of chat completions."""
    content = [
        {
            **_chat_token(text, place.entry.token, place.entry.logprob),
            "top_logprobs": [_chat_token(text, *pair) for pair in place.entry.top[:most]],
        }
        for place in places
        if place.entry is not None
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(text: TextModel, places: Sequence[Placed], most: int) -> dict[str, object]:
    """`choices[].logprobs` of completions; the chosen token is among the top ones, so there may be one more."""
    return {
        "tokens": [_name(text, place.token) for place in places],
        "token_logprobs": [None if place.entry is None else max(place.entry.logprob, LEAST) for place in places],
        "top_logprobs": [None if place.entry is None else _top(text, place.entry, most) for place in places],
        "text_offset": [place.offset for place in places],
    }


def _chat_token(text: TextModel, token: int, logprob: float) -> dict[str, object]:
    written = text.token_text(token)
    return {"token": written.decode("utf-8", "replace"), "logprob": max(logprob, LEAST), "bytes": list(written)}


def _top(text: TextModel, entry: TokenLogprob, most: int) -> dict[str, float]:
    top = dict.fromkeys((_name(text, token) for token, _ in entry.top[:most]), LEAST)
    for token, logprob in (*entry.top[:most], (entry.token, entry.logprob)):
        name = _name(text, token)
        top[name] = max(logprob, top.get(name, LEAST))
    return top


def _name(text: TextModel, token: int) -> str:
    """The token's text; where that is no whole character, its bytes as OpenAI writes them there."""
    written = text.token_text(token)
    try:
        return written.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)
