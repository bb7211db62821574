"""Repetition, presence and frequency penalties: each row by the tokens before it, drafted ones included.

Shapes: ℓ drafted tokens, V vocabulary, U different tokens in prompt, output and draft.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from outrider.types import SamplingParams

__all__ = ["Penalties"]


class Penalties:
    """One request's counts of committed tokens, kept up incrementally; a draft is counted for its own rows only."""

    def __init__(self, sampling: SamplingParams, prompt: Sequence[int]) -> None:
        self._repetition = sampling.repetition_penalty
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        known = np.unique(np.asarray(prompt, dtype=np.int64)) if self._repetition != 1.0 else np.empty(0, np.int64)
        self._columns: dict[int, int] = {token: column for column, token in enumerate(known.tolist())}
        self._prompt_columns = len(known)
        self._ids = known
        self._outputs = np.zeros(len(known), dtype=np.float32)

    @staticmethod
    def asked(sampling: SamplingParams) -> bool:
        """Whether any of the three is not neutral."""
        return (
            sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        )

    def add(self, tokens: Sequence[int]) -> None:
        """Count output tokens that are committed."""
        self._make_columns(tokens)
        np.add.at(self._outputs, [self._columns[token] for token in tokens], 1.0)

    def apply(self, logits: NDArray[np.float32], draft: Sequence[int]) -> None:
        """Change logits [ℓ+1, V] in place: row k follows the committed tokens and k of the draft."""
        self._make_columns(draft)
        outputs = np.repeat(self._outputs[None], len(draft) + 1, axis=0)
        for place, token in enumerate(draft):
            outputs[place + 1 :, self._columns[token]] += 1.0
        picked = logits[:, self._ids]
        if self._repetition != 1.0:
            seen = outputs > 0
            seen[:, : self._prompt_columns] = True
            divided = np.where(picked > 0, picked / self._repetition, picked * self._repetition)
            picked = np.where(seen, divided, picked)
        picked -= self._frequency * outputs + self._presence * (outputs > 0)
        logits[:, self._ids] = picked

    def _make_columns(self, tokens: Sequence[int]) -> None:
        """A column for each token; one that a rejected draft leaves behind counts zero, which changes nothing."""
        new = [token for token in dict.fromkeys(tokens) if token not in self._columns]
        if new:
            self._columns.update(zip(new, range(len(self._ids), len(self._ids) + len(new)), strict=True))
            self._ids = np.concatenate((self._ids, np.asarray(new, dtype=np.int64)))
            self._outputs = np.concatenate((self._outputs, np.zeros(len(new), dtype=np.float32)))
