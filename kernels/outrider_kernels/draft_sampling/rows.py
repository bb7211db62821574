"""What block drawing reads about the rows and the heads, and what it answers.

Shapes: R rows (requests), γ block size, d hidden size, V vocabulary, r Markov rank, w tokens in a slot's q.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["DrawRows", "Sampled", "SequentialHead"]


@dataclass(frozen=True, slots=True, eq=False)
class SequentialHead:
    """A vanilla Markov head and the confidence head: bias W2·W1[x], and w·[h; W1[x]] + b.

    w1, w2 [V, r], None without a Markov head; confidence [d + r], or [d] where it reads the hidden state alone;
    confidence_bias fp32 [], or a number.
    """

    w1: Tensor | None
    w2: Tensor | None
    confidence: Tensor
    confidence_bias: Tensor | float


@dataclass(frozen=True, slots=True, eq=False)
class DrawRows:
    """How each row draws, on the device: temperature fp32 [R] (0: greedy), seeds and choices int64 [R]; top_p fp32,
    top_k int64 and min_p fp32 [R] (1, 0 and 0 cut nothing); rounds int64 [R] (−1: the coupled race).

    What the host knows of all rows chooses the kernel: `random`, some row has a temperature; `cuts`, some such row
    has a cut; `rejects`, some row has a round. A row that contradicts them is drawn as if it did not.
    """

    temperature: Tensor
    seeds: Tensor
    choices: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    rounds: Tensor
    random: bool = field(default=True)
    cuts: bool = field(default=True)
    rejects: bool = field(default=False)


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Tokens int64 and confidence logits fp32 [R, γ]; q_tokens int64 and q_probs fp32 [R, γ, w] where rows are under
    the rejection rule: what each was drawn from, in descending order; no mass for the other rows.
    """

    tokens: Tensor
    confidence: Tensor
    q_tokens: Tensor | None = None
    q_probs: Tensor | None = None
