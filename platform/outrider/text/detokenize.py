"""Token ids to text, a few at a time: what is released never has to be taken back."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Protocol

__all__ = ["ByteLevelDetokenizer", "Detokenizer", "MarkedDetokenizer", "WindowDetokenizer", "token_bytes"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer(Protocol):
    """One choice's text so far; `push` and `flush` joined over a stream give what decoding at once gives."""

    def push(self, ids: Sequence[int]) -> str:
        """Text that became certain with these ids; bytes of an unfinished character are held back."""

    def flush(self) -> str:
        """What is still held at the end of the stream; an unfinished character becomes U+FFFD."""


class ByteLevelDetokenizer:
    """Byte-level BPE: every token is a fixed run of bytes, so UTF-8 is decoded incrementally and exactly."""

    __slots__ = ("_decoder", "_pieces")

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """pieces[id] holds the token's bytes; empty for special tokens, which are not text."""
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        pieces = self._pieces
        known = len(pieces)
        return self._decoder.decode(b"".join([pieces[i] for i in ids if 0 <= i < known]))

    def flush(self) -> str:
        return self._decoder.decode(b"", True)


class WindowDetokenizer:
    """Any other decoder (SentencePiece, WordPiece): decode a short window twice and release the difference.

    Ids up to `_read` have been released; the window keeps the last released group before them, because such
    decoders treat the first token of a text differently. Text that ends in U+FFFD waits for the next token.
    """

    __slots__ = ("_decode", "_ids", "_read")

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._read = 0

    def push(self, ids: Sequence[int]) -> str:
        return "".join([self._push_one(i) for i in ids])

    def flush(self) -> str:
        before, after = self._window()
        self._ids, self._read = [], 0
        return after[len(before) :]

    def _push_one(self, token: int) -> str:
        self._ids.append(token)
        before, after = self._window()
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        return after[len(before) :]

    def _window(self) -> tuple[str, str]:
        return self._decode(self._ids[: self._read]), self._decode(self._ids)


class MarkedDetokenizer:
    """Another detokeniser that also shows some special tokens, by their names."""

    __slots__ = ("_marks", "_plain")

    def __init__(self, plain: Detokenizer, marks: Mapping[int, str]) -> None:
        self._plain = plain
        self._marks = marks

    def push(self, ids: Sequence[int]) -> str:
        return "".join([self._push_one(i) for i in ids])

    def flush(self) -> str:
        return self._plain.flush()

    def _push_one(self, token: int) -> str:
        mark = self._marks.get(token)
        return self._plain.push((token,)) if mark is None else self._plain.flush() + mark


def token_bytes(token: str) -> bytes:
    """The bytes a byte-level token stands for; one written outside that alphabet stands for its UTF-8."""
    alphabet = _byte_alphabet()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:
        return token.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character of every byte, inverted (openai/gpt-2: encoder.py, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    shifted = {chr(256 + rank): byte for rank, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
