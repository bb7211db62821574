"""The coupled (Gumbel-max) verification rule: accept while drafter and target choose alike, emit the target's.

Both sides choose by the same noise (`outrider.speculation.noise`), so what is emitted is plain autoregressive sampling
of the target under that seed, whatever the drafter, depth or scheduler (Daliri et al., arXiv 2408.07978; DSPARK §3).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["accepted_length", "verify"]


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


def verify(drafted: Sequence[int], chosen: Sequence[int]) -> list[int]:
    """The tokens one round emits: the accepted run and the target's own next choice, 1 to ℓ+1 tokens."""
    return list(chosen[: accepted_length(drafted, chosen) + 1])
