"""What differs between the families' drafter layers, as numbers: the layers themselves are one piece of code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Geometry"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Attention of `heads` query and `groups` key/value heads of `width`, and what the family does around it.

    rope_theta, rotary_share: base of the rotation's frequencies, and the share of each head that is rotated.
    scale: factor of the attention logits, width^-0.5 unless given. embedding_scale: factor of the token embeddings.
    logit_cap: base logits are squashed to ±cap. sandwich: a norm after attention and after the feed-forward block too,
    values normed, and a scalar per layer. keys_are_values: one projection serves both.
    """

    heads: int
    groups: int
    width: int
    rope_theta: float
    rotary_share: float = 1.0
    scale: float | None = None
    activation: Literal["silu", "gelu_tanh"] = "silu"
    embedding_scale: float | None = None
    logit_cap: float | None = None
    sandwich: bool = False
    keys_are_values: bool = False

    @property
    def plain(self) -> bool:
        """Whether the layers are Qwen3's, without anything that another family adds."""
        return self == Geometry(self.heads, self.groups, self.width, self.rope_theta, scale=self.scale)
