"""Tool calls out of a stream of text; what is no call after all comes out as the text it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import msgspec

from outrider.text.tools.scanner import JsonEnd

if TYPE_CHECKING:
    from outrider.text.tools.formats import ToolFormat

__all__ = ["CallDelta", "CallParser"]


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of one call: its name with the first piece, its arguments' JSON text over all of them."""

    index: int
    name: str | None
    arguments: str


class _At(Enum):
    TEXT = auto()
    """In text that may turn into a call."""
    OPENED = auto()
    """Behind what begins a call, before its JSON."""
    OBJECT = auto()
    CLOSED = auto()
    """Behind a call, before the next one or text."""
    PROSE = auto()
    """In text, for good."""


class CallParser:
    """Reads one choice's text in one format. `push` and `flush` give text and calls in the order they were written.

    A call counts when its JSON is whole, names an offered tool and has an object of arguments. forced: the format's
    opening stands in the prompt and a grammar guarantees the rest, so arguments are passed on as they grow.
    """

    def __init__(self, form: ToolFormat, names: Collection[str], *, forced: bool = False) -> None:
        self._format = form
        self._names = frozenset(names)
        self._forced = forced
        self._openings = form.forced_openings if forced else form.openings
        self._at = _At.OPENED if forced or not form.begin else _At.TEXT
        self._pending = ""
        self._calls = 0
        self._end = JsonEnd(0)
        self._told: _Told | None = None

    @property
    def calls(self) -> int:
        """Calls that are complete."""
        return self._calls

    @property
    def found(self) -> bool:
        """Whether there has been a call, or part of one."""
        return self._calls > 0 or self._told is not None

    def push(self, text: str) -> list[str | CallDelta]:
        self._pending += text
        return list(self._steps())

    def flush(self) -> list[str | CallDelta]:
        """What is still held at the end of the stream."""
        rest, self._pending = self._pending, ""
        if self._told is not None:
            return [CallDelta(self._calls, None, rest[self._told.upto :])] if rest[self._told.upto :] else []
        separators = self._at is _At.CLOSED and self._may_go_on(rest)
        return [rest] if rest and not separators else []

    def _steps(self) -> Iterator[str | CallDelta]:
        """Until the pending text says nothing more."""
        before = None
        while before != (self._at, len(self._pending)):
            before = self._at, len(self._pending)
            match self._at:
                case _At.TEXT:
                    yield from self._text()
                case _At.OPENED:
                    yield from self._opened()
                case _At.OBJECT:
                    yield from self._object()
                case _At.CLOSED:
                    self._closed()
                case _At.PROSE:
                    yield from self._release(len(self._pending))

    def _text(self) -> Iterator[str]:
        begin, pending = self._format.begin, self._pending
        found = pending.find(begin)
        if found >= 0:
            yield from self._release(found)
            self._at = _At.OPENED
            return
        held = next((n for n in range(min(len(begin) - 1, len(pending)), 0, -1) if pending.endswith(begin[:n])), 0)
        yield from self._release(len(pending) - held)

    def _opened(self) -> Iterator[str]:
        brace = self._pending.find("{")
        opening = _squeezed(self._pending if brace < 0 else self._pending[:brace])
        if brace >= 0 and opening in self._openings:
            self._begin_object(brace)
        elif brace >= 0 or not any(each.startswith(opening) for each in self._openings):
            yield from self._no_call(len(self._format.begin))

    def _begin_object(self, brace: int) -> None:
        """Keeps what stands before it: a call that is none comes out whole."""
        self._at = _At.OBJECT
        self._end = JsonEnd(brace)

    def _object(self) -> Iterator[str | CallDelta]:
        end = self._end.find(self._pending)
        if self._forced:
            yield from self._tell()
        if end is None:
            return
        raw = self._pending[self._pending.index("{") : end]
        call = self._told or self._call(raw)
        if call is None:
            yield from self._no_call(end)
            return
        if isinstance(call, CallDelta):
            yield call
        self._pending = self._pending[end:]
        self._told = None
        self._calls += 1
        self._at = _At.CLOSED

    def _tell(self) -> Iterator[CallDelta]:
        """Pass on arguments as they grow, once the name is known."""
        if self._told is None:
            head = _HEAD.search(self._pending)
            if head is None:
                return
            self._told = _Told(head.end() - 1, JsonEnd(head.end() - 1))
            yield CallDelta(self._calls, msgspec.json.decode(head[1]), "")
        told = self._told
        if told.done:
            return
        end = told.end.find(self._pending)
        told.done = end is not None
        piece = self._pending[told.upto : end]
        told.upto += len(piece)
        if piece:
            yield CallDelta(self._calls, None, piece)

    def _closed(self) -> None:
        """Another call, or text again; which of the two is not known while only separators have come."""
        brace = self._pending.find("{")
        between = _squeezed(self._pending if brace < 0 else self._pending[:brace])
        if brace >= 0 and between in self._format.between:
            self._begin_object(brace)
        elif brace >= 0 or not self._may_go_on(self._pending):
            end = self._format.end and re.match(rf"\s*{re.escape(self._format.end)}", self._pending)
            self._pending = self._pending[end.end() :] if end else self._pending
            self._at = _At.TEXT if self._format.begin else _At.PROSE

    def _may_go_on(self, text: str) -> bool:
        squeezed = _squeezed(text)
        return any(each.startswith(squeezed) for each in (*self._format.between, self._format.end))

    def _no_call(self, length: int) -> Iterator[str]:
        self._at = _At.TEXT if self._format.begin else _At.PROSE
        yield from self._release(length)

    def _release(self, length: int) -> Iterator[str]:
        text, self._pending = self._pending[:length], self._pending[length:]
        if text:
            yield text

    def _call(self, raw: str) -> CallDelta | None:
        try:
            written = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            name: Any = msgspec.json.decode(written["name"])
            arguments = bytes(written[self._format.arguments])
        except (msgspec.DecodeError, KeyError):
            return None
        if name not in self._names or not arguments.startswith(b"{"):
            return None
        return CallDelta(self._calls, name, arguments.decode())


@dataclass(slots=True)
class _Told:
    """How much of the arguments of the call being written has been passed on."""

    upto: int
    end: JsonEnd
    done: bool = False


_HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')


def _squeezed(text: str) -> str:
    return "".join(text.split())
