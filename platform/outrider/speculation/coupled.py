"""The coupled (Gumbel-max) verification rule: accept while drafter and target choose alike, emit the target's.

Both sides choose by the same noise (`outrider.speculation.noise`), so what is emitted is plain autoregressive sampling
of the target under that seed, whatever the drafter, depth or scheduler (Daliri et al., arXiv 2408.07978).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from outrider.speculation.sampling import RowSampling, choose

__all__ = ["CoupledRule", "LogitsProcessor", "accepted_length"]


class LogitsProcessor(Protocol):
    """Changes a row's logits by the tokens before it. Rows of a draft see the drafted tokens as history."""

    def __call__(self, logits: Tensor, prefixes: Sequence[Sequence[int]]) -> Tensor:
        """Logits [n, V] for rows whose next token follows the given token ids (n of them)."""


def accepted_length(drafted: Sequence[int], chosen: Sequence[int]) -> int:
    """How many leading drafted tokens the target chose itself.

    drafted: ℓ tokens x₁…x_ℓ; chosen: the target's ℓ+1 choices, chosen[j] for the position of x_{j+1}.
    """
    accepted = 0
    for draft, target in zip(drafted, chosen, strict=False):
        if draft != target:
            break
        accepted += 1
    return accepted


@dataclass(frozen=True, slots=True)
class CoupledRule:
    """How the engine turns target logits into tokens; `processors` are applied in order before sampling."""

    processors: tuple[LogitsProcessor, ...] = ()

    def choose(
        self, logits: Tensor, rows: RowSampling, positions: Tensor, prefixes: Sequence[Sequence[int]] | None
    ) -> list[int]:
        """The target's own token for each row: logits [n, V], positions int64 [n] of the tokens being chosen.

        prefixes are the n token histories, drafted tokens included; None when there is no processor.
        """
        for processor in self.processors:
            logits = processor(logits, prefixes or ())
        return choose(logits, rows, positions).tolist()

    def emit(self, drafted: Sequence[int], chosen: Sequence[int]) -> tuple[list[int], int]:
        """The tokens of one round, 1 to ℓ+1 of them, and how many of the draft were accepted."""
        accepted = accepted_length(drafted, chosen)
        return list(chosen[: accepted + 1]), accepted
