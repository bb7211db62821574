"""Block attention on a GPU: one program per request, key head and share of the context, and a kernel that joins shares.

All G·γ queries of a key head see the same keys, so they are the rows of one matrix; a tile of keys is read once.

Shapes: R requests, γ block size, H query heads, K key/value heads, G = H / K, M = G·γ rows, D head size, S capacity of
a slot, P shares of a context.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from outrider_kernels.dispatch import interpreted
from outrider_kernels.triton_parts.product import product

__all__ = ["attend_kernel", "block_attention", "join_kernel", "shares"]

_TILE: Final = 64
_LEAST_SHARE: Final = 256
"""Positions a share has at least where it holds all its slot can: less is not worth a second launch."""
_PROGRAMS: Final = 264
"""Two for each multiprocessor of the largest GPUs."""
_MOST_SHARES: Final = 32


@triton.jit
def _tile(keys, values, key_at, value_at, seen, row_seen, queries, scale, best, total, mixed, WIDEN: tl.constexpr):
    """One step of the online softmax over a tile of keys; `row_seen` [M, tile] or its one row."""
    key = tl.load(keys + key_at, mask=seen, other=0.0)
    value = tl.load(values + value_at, mask=seen, other=0.0)
    logits = product(queries, tl.trans(key), tl.zeros((queries.shape[0], key.shape[0]), tl.float32), WIDEN) * scale
    logits = tl.where(row_seen, logits, float("-inf"))
    new = tl.maximum(best, tl.max(logits, 1))
    anchor = tl.where(new == float("-inf"), 0.0, new)  # a row that has seen nothing yet
    weights = tl.exp2(logits - anchor[:, None])
    fading = tl.exp2(best - anchor)
    total = total * fading + tl.sum(weights, 1)
    mixed = product(weights.to(value.dtype), value, mixed * fading[:, None], WIDEN)
    return new, total, mixed


@triton.jit
def attend_kernel(
    query, key, value, context_keys, context_values, slots, lengths, out, part_mixed, part_best, part_total,
    query_r, query_t, query_h, key_r, key_t, key_h, value_r, value_t, value_h, plane_s, plane_t, plane_h,
    scale, window,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, GAMMA: tl.constexpr, WIDTH: tl.constexpr, SHARES: tl.constexpr,
    WINDOWED: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    r = (tl.program_id(0) // KV_HEADS).to(tl.int64)
    head = (tl.program_id(0) % KV_HEADS).to(tl.int64)
    share = tl.program_id(1)
    slot = tl.load(slots + r)
    length = tl.where(slot >= 0, tl.load(lengths + r), 0)
    slot = tl.maximum(slot, 0)

    rows = tl.arange(0, BLOCK_M)
    lanes = tl.arange(0, BLOCK_D)
    wide = lanes < WIDTH
    own, group = rows % GAMMA, rows // GAMMA
    real = rows < GROUPS * GAMMA
    at = r * query_r + own[:, None] * query_t + (head * GROUPS + group)[:, None] * query_h + lanes[None, :]
    queries = tl.load(query + at, mask=real[:, None] & wide[None, :], other=0.0)

    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)

    first = 0
    if WINDOWED:
        first = tl.maximum(length - window + 1, 0)
    each = tl.cdiv(tl.cdiv(length - first, SHARES), BLOCK_N) * BLOCK_N
    begin = first + share * each
    end = tl.minimum(begin + each, length)
    plane = slot * plane_s + head * plane_h
    for start in tl.range(begin, end, BLOCK_N):
        past = start + tl.arange(0, BLOCK_N)
        inside = (past < end)[:, None] & wide[None, :]
        context_at = plane + past.to(tl.int64)[:, None] * plane_t + lanes[None, :]
        row_seen = (past < end)[None, :]
        if WINDOWED:
            row_seen = row_seen & (past[None, :] > length + own[:, None] - window)
        best, total, mixed = _tile(
            context_keys, context_values, context_at, context_at, inside, row_seen, queries, scale, best, total, mixed,
            WIDEN,
        )  # fmt: skip
    if share == 0:
        near = tl.arange(0, BLOCK_G)
        inside = (near < GAMMA)[:, None] & wide[None, :]
        key_at = r * key_r + near[:, None] * key_t + head * key_h + lanes[None, :]
        value_at = r * value_r + near[:, None] * value_t + head * value_h + lanes[None, :]
        best, total, mixed = _tile(
            key, value, key_at, value_at, inside, (near < GAMMA)[None, :], queries, scale, best, total, mixed, WIDEN
        )

    if SHARES == 1:
        found = mixed / total[:, None]
        found = tl.where(tl.load(slots + r) >= 0, found, 0.0)
        out_at = ((r * GAMMA + own) * (KV_HEADS * GROUPS) + head * GROUPS + group)[:, None] * WIDTH + lanes[None, :]
        tl.store(out + out_at, found.to(out.dtype.element_ty), mask=real[:, None] & wide[None, :])
    else:
        part = (tl.program_id(0).to(tl.int64) * SHARES + share) * (GROUPS * GAMMA) + rows
        tl.store(part_best + part, best, mask=real)
        tl.store(part_total + part, total, mask=real)
        tl.store(part_mixed + part[:, None] * WIDTH + lanes[None, :], mixed, mask=real[:, None] & wide[None, :])


@triton.jit
def join_kernel(
    slots, out, part_mixed, part_best, part_total,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, GAMMA: tl.constexpr, WIDTH: tl.constexpr, SHARES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    r = (tl.program_id(0) // KV_HEADS).to(tl.int64)
    head = (tl.program_id(0) % KV_HEADS).to(tl.int64)
    row = tl.program_id(1)
    shares = tl.arange(0, BLOCK_P)
    lanes = tl.arange(0, BLOCK_D)
    there = shares < SHARES
    part = (tl.program_id(0).to(tl.int64) * SHARES + shares) * (GROUPS * GAMMA) + row
    best = tl.load(part_best + part, mask=there, other=float("-inf"))
    total = tl.load(part_total + part, mask=there, other=0.0)
    weights = tl.exp2(best - tl.max(best, 0))  # share 0 has seen the block itself: the largest is finite
    mask = there[:, None] & (lanes < WIDTH)[None, :]
    mixed = tl.load(part_mixed + part[:, None] * WIDTH + lanes[None, :], mask=mask, other=0.0)
    found = tl.sum(mixed * weights[:, None], 0) / tl.sum(total * weights, 0)
    found = tl.where(tl.load(slots + r) >= 0, found, 0.0)
    out_row = (r * GAMMA + row % GAMMA) * (KV_HEADS * GROUPS) + head * GROUPS + row // GAMMA
    tl.store(out + out_row * WIDTH + lanes, found.to(out.dtype.element_ty), mask=lanes < WIDTH)


def shares(requests: int, kv_heads: int, capacity: int) -> int:
    """Into how many parts contexts are split: enough programs for a GPU, from what the host knows alone."""
    wanted = -(-_PROGRAMS // max(requests * kv_heads, 1))
    return max(1, min(wanted, capacity // _LEAST_SHARE, _MOST_SHARES))


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_keys: Tensor,
    context_values: Tensor,
    slots: Tensor,
    lengths: Tensor,
    *,
    scaling: float,
    window: int | None = None,
) -> Tensor:
    """As `reference.block_attention`."""
    requests, gamma, heads, width = query.shape
    kv_heads, capacity = key.shape[2], context_keys.shape[1]
    groups = heads // kv_heads
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if not out.numel():
        return out
    count = shares(requests, kv_heads, capacity)
    parts = (requests * kv_heads, count, groups * gamma)
    mixed = torch.empty((*parts, width) if count > 1 else 1, dtype=torch.float32, device=query.device)
    best = torch.empty(parts if count > 1 else 1, dtype=torch.float32, device=query.device)
    total = torch.empty_like(best)
    block_m, block_d = max(16, triton.next_power_of_2(groups * gamma)), max(16, triton.next_power_of_2(width))
    exact = query.dtype == torch.float32
    attend_kernel[(requests * kv_heads, count)](
        query, key, value, context_keys, context_values, slots, lengths, out, mixed, best, total,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *context_keys.stride()[:3],
        scaling * 1.4426950408889634, window or 0,
        KV_HEADS=kv_heads, GROUPS=groups, GAMMA=gamma, WIDTH=width, SHARES=count, WINDOWED=window is not None,
        WIDEN=interpreted(), BLOCK_M=block_m, BLOCK_N=_TILE // 2 if exact else _TILE,
        BLOCK_G=max(16, triton.next_power_of_2(gamma)), BLOCK_D=block_d,
        num_warps=8 if block_m * block_d > 64 * 128 else 4, num_stages=1 if exact else 3 if block_d <= 128 else 2,
    )  # fmt: skip
    if count > 1:
        join_kernel[(requests * kv_heads, groups * gamma)](
            slots, out, mixed, best, total,
            KV_HEADS=kv_heads, GROUPS=groups, GAMMA=gamma, WIDTH=width, SHARES=count,
            BLOCK_P=triton.next_power_of_2(count), BLOCK_D=block_d, num_warps=4,
        )  # fmt: skip
    return out
