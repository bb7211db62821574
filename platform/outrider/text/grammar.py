"""Constrained text: a JSON schema or a regular expression as masks over a tokenizer's vocabulary, by llguidance.

Shapes: V vocabulary, ℓ drafted tokens.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from outrider.errors import InvalidRequest, MissingExtra
from outrider.text.model import TextModel
from outrider.types import Constraint

__all__ = ["Grammar", "Matcher", "check_constraint", "compile_constraint"]

Value = TypeVar("Value")

_EXACT: Final = '%llguidance {"no_forcing": true}'
"""Every token by which a text can go on is allowed; the library would leave but one spelling of what must come."""

_LARGEST_SOURCE_BYTES: Final = 128 * 1024
_KEPT_GRAMMARS: Final = 128
_KEPT_VOCABULARIES: Final = 8
_SPACE: Final = r"(\x20|\r?\n[\x20\t]{0,16})"
"""What may stand between JSON's tokens: a space or an indented line. Given more, a weak model writes nothing else."""
_DEEPEST_SCHEMA: Final = 64
_JSON_OPTIONS: Final = {"whitespace_pattern": _SPACE, "json_allow_general_unicode_escapes": True}


class Matcher:
    """Where one text stands in its grammar. End tokens are none of its business: it says where a text may end."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._end = vocab_size

    def consume(self, tokens: Sequence[int]) -> bool:
        """Go on by the tokens of the text; False, with the matcher useless, when the grammar forbids one of them."""
        return not tokens or bool(self._matcher.consume_tokens(list(tokens)))

    def admissible(self, draft: Sequence[int]) -> int:
        """How many leading tokens of a draft the grammar allows."""
        return int(self._matcher.validate_tokens(list(draft))) if draft else 0

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def complete(self) -> bool:
        """Whether the text can only end here."""
        return bool(self._matcher.is_stopped()) and self.accepting

    def masks(self, draft: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The tokens allowed [ℓ+1, V], and whether the text may end [ℓ+1], now and after each drafted token.

        The draft must be admissible. Nothing is allowed where the grammar has led nowhere, or proved too complex.
        """
        words = np.zeros((len(draft) + 1, self._end // 32 + 1), dtype=np.int32)
        for row, token in enumerate((*draft, None)):
            self._matcher.unsafe_compute_mask_ptr(words[row].ctypes.data, words[row].nbytes)
            if self._matcher.is_error():  # a grammar that no text satisfies shows itself here
                words[row:] = 0
                return _allowed(words, self._end)
            if token is not None:
                self._matcher.consume_token(token)
        if draft:
            self._matcher.rollback(len(draft))
        return _allowed(words, self._end)


def _allowed(words: NDArray[np.int32], end: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").view(np.bool_)
    return bits[:, :end], bits[:, end]


class Grammar:
    """A compiled constraint, shared by every request that asks for it."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def matcher(self) -> Matcher:
        """A matcher at the start of a text."""
        return Matcher(self._matcher.deep_copy(), self._vocab_size)


class _Kept(Generic[Value]):
    """The values used last, by key; any thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Any, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object) -> Value | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: object, value: Value) -> Value:
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value


_grammars: _Kept[Grammar] = _Kept(_KEPT_GRAMMARS)
_vocabularies: _Kept[Any] = _Kept(_KEPT_VOCABULARIES)


def check_constraint(constraint: Constraint, text: TextModel) -> None:
    """Raises what `compile_constraint` raises; what was checked here is compiled in this process."""
    compile_constraint(constraint, text)


def compile_constraint(constraint: Constraint, text: TextModel) -> Grammar:
    """The grammar of a constraint over a model's tokens. Any thread; milliseconds, and none when it is known.

    Raises InvalidRequest when the source is malformed, too long, uses what the library does not enforce, or fits no
    text; MissingExtra without llguidance.
    """
    key = (constraint.kind, constraint.source, text.fingerprint)
    return _grammars.get(key) or _grammars.put(key, _compile(constraint, text))


def _compile(constraint: Constraint, text: TextModel) -> Grammar:
    library = _library()
    what = "JSON schema" if constraint.kind == "json_schema" else "regular expression"
    if len(constraint.source.encode()) > _LARGEST_SOURCE_BYTES:
        raise _refused(what, f"is longer than {_LARGEST_SOURCE_BYTES} bytes")
    if constraint.kind == "json_schema":
        source = _json_source(constraint.source)
    else:
        source = f"/{library.regex_to_lark(_whole(constraint.source))}/"
    matcher = library.LLMatcher(_vocabulary(text, library), f"{_EXACT}\nstart: {source}", log_level=0)
    if matcher.is_error():
        raise _refused(what, f"cannot be enforced: {_reason(matcher.get_error())}")
    tokens, ends = Matcher(matcher.deep_copy(), text.vocab_size).masks(())
    if not tokens.any() and not ends.any():
        raise _refused(what, "fits no text that this model can write")
    return Grammar(matcher, text.vocab_size)


def _json_source(schema: str) -> str:
    what = "JSON schema"
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise _refused(what, f"does not parse: {error}") from None
    if parsed is True:
        parsed = {}
    if not isinstance(parsed, dict):
        raise _refused(what, "must be an object, or true")
    if _deeper_than(parsed, _DEEPEST_SCHEMA):
        raise _refused(what, f"is nested more than {_DEEPEST_SCHEMA} deep")
    return f"%json {json.dumps({**parsed, 'x-guidance': _JSON_OPTIONS})}"


def _deeper_than(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper_than(each, levels - 1) for each in inner)


def _whole(regex: str) -> str:
    """The library drops a backslash with nothing behind it."""
    if (len(regex) - len(regex.rstrip("\\"))) % 2:
        raise _refused("regular expression", "ends in the middle of an escape")
    return regex


def _refused(what: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"the {what} {why}", param="response_format")


def _reason(message: str) -> str:
    """The library's message without its dump of the grammar."""
    lines = [line.strip() for line in message.split("<state>")[0].splitlines()]
    errors = [line for line in lines if line.startswith("error:")]
    return re.sub(r"^at \d+\(\d+\): ", "", (errors or lines or [""])[0])[:300]


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise MissingExtra("constrained output needs the package llguidance: pip install llguidance") from None
    return llguidance


def _vocabulary(text: TextModel, library: Any) -> Any:
    """The library's view of a tokenizer, with one token more than there are: the end of a text, whatever the model's
    own end tokens and however many. Special tokens are never part of a text.
    """
    known = _vocabularies.get(text.fingerprint)
    if known is not None:
        return known
    vocabulary = library.LLTokenizer(library.TokenizerWrapper(_Tokens(text)), n_vocab=text.vocab_size + 1)
    return _vocabularies.put(text.fingerprint, vocabulary)


class _Tokens:
    """What llguidance asks of a tokenizer."""

    def __init__(self, text: TextModel) -> None:
        special = text.special_ids
        self._text = text
        self.bos_token_id = None
        self.eos_token_id = text.vocab_size
        self.special_token_ids = [*sorted(special), text.vocab_size]
        marked = (b"\xff" if token in special else b"" for token in range(text.vocab_size))
        self.tokens = [*(mark + text.token_text(token) for token, mark in enumerate(marked)), b"\xff<end>"]

    def __call__(self, text: str | bytes) -> list[int]:
        readable = text if isinstance(text, str) else text.decode(errors="ignore")
        return self._text.encode(readable, add_special_tokens=False)
