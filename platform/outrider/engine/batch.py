"""One step's tokens, as the planner lays them out and the target computes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from outrider.engine.attention import Span

__all__ = ["FlatBatch"]


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """token_ids and positions int64 [B], the spans they form, and the rows logits are wanted of, None for none."""

    token_ids: Tensor
    positions: Tensor
    spans: tuple[Span, ...]
    logit_rows: Tensor | None
