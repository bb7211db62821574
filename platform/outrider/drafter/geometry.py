"""What differs between the families' drafter layers, as numbers: the layers themselves are one piece of code."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Geometry"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Attention of `heads` query and `groups` key/value heads of `width`, and what the family does around it.

    scale: factor of the attention logits, width^-0.5 unless given. rope_theta: base of the rotation's frequencies.
    """

    heads: int
    groups: int
    width: int
    rope_theta: float
    scale: float | None = None
