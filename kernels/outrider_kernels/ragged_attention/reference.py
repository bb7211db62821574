"""Ragged paged attention in torch: every request's tokens and positions padded to the longest, in fp32.

Shapes: Q new tokens of a request (padded), S positions (padded), n requests at once.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from outrider_kernels.ragged_attention.rows import RaggedRows

__all__ = ["ragged_attention"]

_LOGITS_AT_ONCE: Final = 1 << 25
"""Bounds the memory of a step of many requests, one of which has a long query."""


def ragged_attention(
    query: Tensor,
    kv: Tensor,
    rows: RaggedRows,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attend, a few requests at a time; no shape depends on what is on the device."""
    tokens, heads = query.shape[:2]
    requests = len(rows.context)
    longest = min(rows.longest_query, tokens)
    if not requests or not longest:
        return torch.zeros_like(query)
    positions = min(rows.longest_context, rows.blocks.shape[1] * rows.block_size)
    at_once = max(1, _LOGITS_AT_ONCE // (heads * longest * positions))
    padded = torch.cat(
        [
            _attend(query, kv, rows, slice(first, first + at_once), longest, positions, scaling, window, softcap, sinks)
            for first in range(0, requests, at_once)
        ]
    )
    flat = torch.arange(tokens, dtype=torch.int32, device=query.device)
    owner = torch.searchsorted(rows.query_start[1:], flat, right=True).clamp(max=requests - 1)
    found = padded[owner, (flat - rows.query_start[owner]).clamp(max=longest - 1)]
    return torch.where((flat < rows.query_start[-1])[:, None, None], found, 0.0).to(query.dtype)


def _attend(
    query: Tensor,
    kv: Tensor,
    rows: RaggedRows,
    some: slice,
    longest: int,
    positions: int,
    scaling: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Outputs fp32 [n, Q, H, D] of some requests; those of a request's padding mean nothing."""
    heads, head_dim = query.shape[1:]
    kv_heads, device = kv.shape[2], query.device
    starts, ends = rows.query_start[:-1][some], rows.query_start[1:][some]
    context = rows.context[some]
    flat = starts[:, None] + torch.arange(longest, device=device)
    queries = query[flat.clamp(max=len(query) - 1)].float().view(*flat.shape, kv_heads, -1, head_dim)

    past = torch.arange(positions, device=device)
    used = past < (context + ends - starts)[:, None]
    if window is not None:
        used &= past > context[:, None] - window
    blocks = rows.blocks[some][:, past // rows.block_size].long()
    slots = torch.where(used, blocks * rows.block_size + past % rows.block_size, 0)
    found = torch.where(used[:, :, None, None, None], kv[slots].float(), 0.0)  # a stranger's NaN would outlive a mask
    keys, values = found[:, :, 0], found[:, :, 1]

    logits = torch.einsum("nqkgd,nskd->nkgqs", queries, keys) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    own = context[:, None] + torch.arange(longest, device=device)
    seen = (past <= own[:, :, None]) & used[:, None]
    if window is not None:
        seen &= past > own[:, :, None] - window
    logits = logits.masked_fill(~seen[:, None, None], float("-inf"))
    if sinks is not None:
        column = sinks.float().view(1, kv_heads, -1, 1, 1).expand(*logits.shape[:-1], 1)
        logits = torch.cat((logits, column), dim=-1)
    weights = torch.softmax(logits, dim=-1)[..., :positions]
    return torch.einsum("nkgqs,nskd->nqkgd", weights, values).reshape(*flat.shape, heads, head_dim)
