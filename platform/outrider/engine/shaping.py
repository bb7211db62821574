"""What a request's logits go through before sampling, in the order `SamplingParams` states.

Shapes: ℓ drafted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from outrider.engine.constraints import ConstrainedText
from outrider.engine.penalties import Penalties
from outrider.types import SamplingParams

__all__ = ["COMPLETE", "NOTHING_ALLOWED", "Shaping"]

NOTHING_ALLOWED, COMPLETE = -1, -2
"""In place of a token: none is allowed there; none is, because the text is complete and the model has no end token."""


class Shaping:
    """Owned by one sequence. Its state is a function of prompt and committed output, so it outlives lost memory."""

    def __init__(
        self,
        sampling: SamplingParams,
        prompt: Sequence[int],
        ends: Collection[int],
        text: ConstrainedText | None,
    ) -> None:
        self._ends = list(ends)
        self._least = sampling.min_tokens
        self._emitted = 0
        self._penalties = Penalties(sampling, prompt) if Penalties.asked(sampling) else None
        self._biased = np.array([token for token, _ in sampling.logit_bias], dtype=np.int64)
        self._bias = np.array([addend for _, addend in sampling.logit_bias], dtype=np.float32)
        self._text = text

    @classmethod
    def of(
        cls, sampling: SamplingParams, prompt: Sequence[int], ends: Collection[int], text: ConstrainedText | None
    ) -> Shaping | None:
        """None for a request that samples from its logits as they are."""
        asked = text is not None or Penalties.asked(sampling) or sampling.logit_bias or sampling.min_tokens > 0
        return cls(sampling, prompt, ends, text) if asked else None

    def admissible(self, draft: Sequence[int]) -> int:
        """How many leading tokens of a draft can be accepted at all."""
        return len(draft) if self._text is None else self._text.admissible(draft)

    def apply(self, logits: NDArray[np.float32], draft: Sequence[int]) -> dict[int, int]:
        """Change logits [ℓ+1, V] in place: row k follows the committed tokens and k tokens of an admissible draft.

        Returns what stands in place of a token at rows where none is allowed; their logits are zero.
        """
        if self._penalties is not None:
            self._penalties.apply(logits, draft)
        if len(self._biased):
            logits[:, self._biased] += self._bias
        withheld = max(0, self._least - self._emitted)
        if withheld and self._ends:
            logits[:withheld, self._ends] = -np.inf
        may_end = None if self._text is None else self._text.apply(logits, draft)
        if may_end is None and not withheld:
            return {}
        nothing = np.flatnonzero(logits.max(axis=1) == -np.inf).tolist()
        logits[nothing] = 0.0
        return {row: COMPLETE if self._silent_end(may_end, row) else NOTHING_ALLOWED for row in nothing}

    def _silent_end(self, may_end: NDArray[np.bool_] | None, row: int) -> bool:
        """Whether the text may end at a row, and the model has no token to say so."""
        return may_end is not None and not self._ends and bool(may_end[row])

    def add(self, tokens: Sequence[int]) -> int | None:
        """Take in committed tokens; how many of them complete the text of a model that has no end token."""
        self._emitted += len(tokens)
        if self._penalties is not None:
            self._penalties.add(tokens)
        return None if self._text is None else self._text.add(tokens)
