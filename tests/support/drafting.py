"""Inputs of block drawing and block attention for the tests of their kernels, small and awkward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from outrider_kernels.draft_sampling import DrawRows, SequentialHead
from support.kernels import DEVICE

__all__ = ["Blocks", "blocks", "draw_rows", "head_of"]


@dataclass(frozen=True)
class Blocks:
    """Arguments of `block_attention`; beyond a context's length, and in slots nobody holds, all is NaN."""

    query: Tensor
    key: Tensor
    value: Tensor
    context_keys: Tensor
    context_values: Tensor
    slots: Tensor
    lengths: Tensor

    @property
    def all(self) -> tuple[Tensor, ...]:
        return (
            self.query, self.key, self.value, self.context_keys, self.context_values, self.slots, self.lengths
        )  # fmt: skip


def blocks(
    lengths: list[int | None],
    gamma: int,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    capacity: int = 128,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Blocks:
    """Requests with contexts of the given lengths (None: padding), held in slots of descending number."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    count = len(lengths)
    slots = [-1 if length is None else count - r for r, length in enumerate(lengths)]
    planes = [torch.full((count + 1, capacity, kv_heads, head_dim), float("nan"), device=DEVICE) for _ in range(2)]
    for slot, length in zip(slots, lengths, strict=True):
        for plane in planes:
            plane[slot, : length or 0] = normal(length or 0, kv_heads, head_dim).float()
    return Blocks(
        normal(count, gamma, heads, head_dim),
        normal(count, gamma, kv_heads, head_dim),
        normal(count, gamma, kv_heads, head_dim),
        *(plane.to(dtype) for plane in planes),
        torch.tensor(slots, dtype=torch.int64, device=DEVICE),
        torch.tensor([1 << 30 if length is None else length for length in lengths], dtype=torch.int32, device=DEVICE),
    )


def head_of(
    vocab: int, hidden: int, rank: int, *, markov: bool = True, dtype: torch.dtype = torch.float32, seed: int = 1
) -> SequentialHead:
    """A random head whose biases are as large as the base logits; rank 0: none. `markov`: confidence reads it."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    return SequentialHead(
        w1=normal(vocab, rank) if rank else None,
        w2=normal(vocab, rank) * rank**-0.5 * 2 if rank else None,
        confidence=normal(hidden + (rank if markov else 0)) * 0.3,
        confidence_bias=torch.tensor(0.5, device=DEVICE),
    )


def draw_rows(
    temperature: list[float],
    *,
    top_p: float | list[float] = 1.0,
    top_k: int | list[int] = 0,
    min_p: float | list[float] = 0.0,
    rounds: list[int] | None = None,
    seeds: list[int] | None = None,
) -> DrawRows:
    """Rows by number, each with a seed of its own; the flags are what the numbers say."""
    count = len(temperature)

    def column(value: float | list[float] | list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(value if isinstance(value, list) else [value] * count, dtype=dtype, device=DEVICE)

    kept = column(top_p, torch.float32), column(top_k, torch.int64), column(min_p, torch.float32)
    numbers = column(-1 if rounds is None else rounds, torch.int64)
    hot = column(temperature, torch.float32) > 0
    cut = (kept[0] < 1) | (kept[1] > 0) | (kept[2] > 0)
    return DrawRows(
        column(temperature, torch.float32),
        column(seeds or [(-1) ** r * (12345678901 * r + 7) for r in range(count)], torch.int64),
        column([r % 3 for r in range(count)], torch.int64),
        *kept,
        numbers,
        random=bool(hot.any()),
        cuts=bool((cut & hot).any()),
        rejects=bool((numbers >= 0).any()),
    )
