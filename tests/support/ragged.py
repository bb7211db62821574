"""Random steps of ragged attention: requests whose blocks lie scattered in a cache that is NaN everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.engine.attention import Span
from outrider_kernels.ragged_attention import RaggedRows
from support.kernels import DEVICE, poisoned

__all__ = ["RaggedStep", "ragged_step"]

BEYOND = 2**31 - 1
"""A block that no cache has: what a table holds beyond a request's last position."""


@dataclass(frozen=True, slots=True)
class RaggedStep:
    """query [B, H, D], kv [slots, 2, K, D], and the same requests as `RaggedRows` and as the eager path's spans."""

    query: Tensor
    kv: Tensor
    rows: RaggedRows
    spans: list[Span]


def ragged_step(
    lengths: Sequence[int],
    contexts: Sequence[int],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 4,
    padding: int = 0,
    forgotten: int = 0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> RaggedStep:
    """Requests of `lengths` new tokens after `contexts` positions; `padding` flat tokens of NaN behind them.

    `forgotten` positions of every request are NaN too, as those that a window has left behind may be.
    """
    torch.manual_seed(seed)
    needed = [-(-(length + context) // block_size) for length, context in zip(lengths, contexts, strict=True)]
    shuffled = torch.randperm(sum(needed) + 3).tolist()
    kv = poisoned((sum(needed) + 3) * block_size, 2, kv_heads, head_dim, dtype=dtype)
    table = torch.full((len(lengths), max([*needed, 1]) + 1), BEYOND, dtype=torch.int32)
    spans = []
    for request, (length, context) in enumerate(zip(lengths, contexts, strict=True)):
        own = [shuffled.pop() for _ in range(needed[request])]
        table[request, : len(own)] = torch.tensor(own, dtype=torch.int32)
        positions = torch.arange(length + context)
        slots = torch.tensor(own, dtype=torch.int64)[positions // block_size] * block_size + positions % block_size
        kv[slots.to(DEVICE)] = torch.randn(len(slots), 2, kv_heads, head_dim).to(DEVICE, dtype)
        kv[slots[:forgotten].to(DEVICE)] = float("nan")
        spans.append(Span(context, length, slots.to(DEVICE)))
    query = poisoned(sum(lengths) + padding, heads, head_dim, dtype=dtype)
    query[: sum(lengths)] = torch.randn(sum(lengths), heads, head_dim).to(DEVICE, dtype)
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    longest = max([length + context for length, context in zip(lengths, contexts, strict=True)], default=0)
    rows = RaggedRows(
        starts.to(DEVICE),
        torch.tensor(contexts, dtype=torch.int32, device=DEVICE),
        table.to(DEVICE),
        block_size,
        max(lengths, default=0),
        longest + 5,
    )
    return RaggedStep(query, kv, rows, spans)
