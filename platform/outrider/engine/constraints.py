"""Constrained requests inside the engine: the grammar of a target's directory, and one request's place in it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outrider.errors import ModelDirectoryError
from outrider.text import Grammar, Matcher, TextModel, compile_constraint
from outrider.types import Constraint

__all__ = ["ConstrainedText", "Constraints"]


class Constraints:
    """Compiles for one target, on any thread; its tokenizer is read when the first constrained request comes."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._text: TextModel | None = None
        self._lock = threading.Lock()

    def compile(self, constraint: Constraint) -> Grammar:
        """Raises what `compile_constraint` raises, and ModelDirectoryError when the target has no tokenizer."""
        with self._lock:
            if self._text is None:
                if self._directory is None:
                    raise ModelDirectoryError("constrained output needs the model's tokenizer; it has no directory")
                self._text = TextModel.load(self._directory)
        return compile_constraint(constraint, self._text)


class ConstrainedText:
    """What a request's output has been so far, in its grammar. End tokens are allowed where the text may end."""

    def __init__(self, matcher: Matcher, ends: Collection[int]) -> None:
        self._matcher = matcher
        self._ends = list(ends)

    def add(self, tokens: Sequence[int]) -> int | None:
        """Go on by committed tokens; how many of them complete the text of a model that has no token to say so."""
        if self._ends:
            self._matcher.consume([token for token in tokens if token not in self._ends])
            return None
        for place, token in enumerate(tokens, start=1):
            self._matcher.consume((token,))
            if self._matcher.complete:
                return place
        return None

    def admissible(self, draft: Sequence[int]) -> int:
        """How many leading tokens of a draft can be accepted: what follows an end token or a forbidden one cannot."""
        text = next((place for place, token in enumerate(draft) if token in self._ends), len(draft))
        allowed = self._matcher.admissible(draft[:text])
        if allowed < text or text == len(draft):
            return allowed
        _, ends = self._matcher.masks(draft[:text])
        return text + int(ends[-1])

    def apply(self, logits: NDArray[np.float32], draft: Sequence[int]) -> NDArray[np.bool_]:
        """Forbid in logits [ℓ+1, V] what the grammar does, in place; whether the text may end at each row.

        The draft must be admissible; the row after an end token is left alone, since nothing comes of it.
        """
        text = len(draft) - (bool(draft) and draft[-1] in self._ends)
        allowed, may_end = self._matcher.masks(draft[:text])
        for end in self._ends:
            allowed[:, end] = may_end
        np.copyto(logits[: text + 1], -np.inf, where=~allowed)
        return may_end
