"""Paged memory of the target: one KV tensor per layer and one plane of projected drafter rows, by slot.

A slot is one token position of one block: slot = block · block_size + offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PagedCache"]


@dataclass(frozen=True, slots=True)
class PagedCache:
    """kv: per layer [slots, 2, kv_heads, head_dim]; features: [slots, d] or None without a drafter.

    block_slots: int64 [blocks, block_size], the slots of every block.
    """

    kv: list[Tensor]
    features: Tensor | None
    block_size: int
    block_slots: Tensor

    @classmethod
    def empty(
        cls,
        *,
        blocks: int,
        block_size: int,
        layers: int,
        kv_heads: int,
        head_dim: int,
        feature_size: int | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> PagedCache:
        """Zeroed memory for `blocks` blocks. Masked rows are multiplied by 0, and 0·NaN is NaN."""
        slots = blocks * block_size
        kv = [torch.zeros(slots, 2, kv_heads, head_dim, dtype=dtype, device=device) for _ in range(layers)]
        features = None if feature_size is None else torch.zeros(slots, feature_size, dtype=dtype, device=device)
        return cls(kv, features, block_size, torch.arange(slots, device=device).view(blocks, block_size))

    def slots_of(self, blocks: list[int]) -> Tensor:
        """Slot of every position the blocks hold, int64 [len(blocks) · block_size], in order."""
        return self.block_slots[blocks].reshape(-1)
