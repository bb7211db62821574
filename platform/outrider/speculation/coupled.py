"""The coupled (Gumbel-max) verification rule: accept while drafter and target choose alike, emit the target's.

Both sides choose by the same noise (`outrider.speculation.noise`), so what is emitted is plain autoregressive sampling
of the target under that seed, whatever the drafter, depth or scheduler (Daliri et al., arXiv 2408.07978).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from outrider.speculation.sampling import RowSampling, choose

__all__ = ["CoupledRule", "accepted_length"]


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


class CoupledRule:
    """How the engine turns target logits, already shaped by what each row's request asks, into tokens."""

    def choose(self, logits: Tensor, rows: RowSampling, positions: Tensor) -> list[int]:
        """The target's own token for each row: logits [n, V], positions int64 [n] of the tokens being chosen."""
        return choose(logits, rows, positions).tolist()

    def emit(self, drafted: Sequence[int], chosen: Sequence[int]) -> tuple[list[int], int]:
        """The tokens of one round, 1 to ℓ+1 of them, and how many of the draft were accepted."""
        accepted = accepted_length(drafted, chosen)
        return list(chosen[: accepted + 1]), accepted
