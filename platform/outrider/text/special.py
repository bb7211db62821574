"""Text that spells a special token is a tenant's text, not a control token: keeps the two apart in a conversation."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Set
from functools import cached_property
from typing import Any

__all__ = ["SpecialText"]


class SpecialText:
    """The special tokens of one tokenizer as text.

    A conversation without any is not touched. In others each occurrence is swapped for a random word before the
    template is rendered, and encoded as plain text in that word's place afterwards: the tokenizer cuts text at
    special tokens anyway, so all that changes is the ids of the occurrence itself.
    """

    def __init__(self, backend: Any) -> None:
        """backend: a `tokenizers.Tokenizer`, read only."""
        self._backend = backend
        added = backend.get_added_tokens_decoder().items()
        self._names: dict[int, str] = {index: token.content for index, token in added if token.special}
        longest_first = sorted(filter(None, self._names.values()), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    @property
    def ids(self) -> Set[int]:
        """The ids of the special tokens."""
        return self._names.keys()

    @property
    def names(self) -> tuple[str, ...]:
        """The special tokens as text."""
        return tuple(self._names.values())

    def text_of(self, token: int) -> str | None:
        """A special token's name, None for other ids."""
        return self._names.get(token)

    def hide(self, value: Any, hidden: dict[str, str]) -> Any:
        """`value` (JSON-like) with every occurrence in its strings swapped; `hidden` gains word → occurrence."""
        if isinstance(value, str):
            if self._pattern is None or self._pattern.search(value) is None:
                return value
            return self._pattern.sub(lambda found: _swapped(found[0], hidden), value)
        if isinstance(value, Mapping):
            return {self.hide(key, hidden): self.hide(inner, hidden) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(inner, hidden) for inner in value]
        return value

    def encode(self, text: str, hidden: Mapping[str, str], encode: Callable[[str], list[int]]) -> list[int]:
        """Token ids of a rendered text: `encode` for what lies between the hidden words, plain ids for them."""
        if not hidden:
            return encode(text)
        ids: list[int] = []
        for part in re.split(f"({'|'.join(hidden)})", text):
            if part in hidden:
                ids += self._plain_ids(hidden[part])
            elif part:
                ids += encode(part)
        return ids

    def _plain_ids(self, text: str) -> list[int]:
        """A vocabulary may hold the token as an ordinary piece too: two halves of it never make one."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        if not self.ids & set(ids):
            return ids
        return [i for half in (text[:1], text[1:]) for i in self._plain.encode(half, add_special_tokens=False).ids]

    @cached_property
    def _plain(self) -> Any:
        """A copy that knows no special tokens; made when first needed, since it takes as long as loading one."""
        from tokenizers import Tokenizer

        copy = Tokenizer.from_str(self._backend.to_str())
        copy.encode_special_tokens = True
        return copy


def _swapped(occurrence: str, hidden: dict[str, str]) -> str:
    word = f"q{secrets.token_hex(12)}q"
    hidden[word] = occurrence
    return word
