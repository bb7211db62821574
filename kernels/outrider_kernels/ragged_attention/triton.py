"""Ragged paged attention on a GPU.

A program attends the query rows of one tile, some tokens of one request times the G heads of one key/value head, over
one split of the positions these see. Keys and values are read once per tile, through the block table, a row of D
elements for each position. Where positions are split, programs leave their sums and the logarithm of their weight,
which a second kernel joins.

The grid depends on static sizes only. Where any request's tokens may fill several tiles, tile t belongs to the last
request r with query_start[r] // tokens + r ≤ t: an upper bound of tiles that a binary search finds its way in.

Names: TOKENS of a tile, ROWS ≥ TOKENS · G (a power of two, 16 at least: what tensor cores multiply), COLUMNS positions
read at a time. Logits are in units of log 2, for exp2.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from outrider_kernels.dispatch import interpreted
from outrider_kernels.ragged_attention.plan import Plan, plan_of
from outrider_kernels.ragged_attention.rows import RaggedRows

__all__ = ["attention_kernel", "combine_kernel", "launch_constants", "ragged_attention"]

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _owner(query_start, requests, tile, TOKENS: tl.constexpr):
    """The last request whose first tile is not beyond `tile`."""
    low = tile * 0
    high = requests
    while high - low > 1:
        middle = (low + high) // 2
        first = tl.load(query_start + middle) // TOKENS + middle
        low = tl.where(first <= tile, middle, low)
        high = tl.where(first <= tile, high, middle)
    return low


@triton.jit
def _dot(left, right, sums, WIDEN: tl.constexpr):
    """sums + left · right, fp32. WIDEN: for the interpreter, which multiplies the bits of bf16 as integers."""
    if WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    precision: tl.constexpr = "ieee" if left.dtype == tl.float32 else "tf32"
    return tl.dot(left, right, sums, input_precision=precision)


@triton.jit(do_not_specialize=["table_stride", "tokens", "requests"])
def attention_kernel(
    query, kv, query_start, context, blocks, sinks, out, partial, weights,
    scale, softcap, query_stride, head_stride, table_stride, tokens, requests,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_BITS: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SINKS: tl.constexpr, ONE_TILE: tl.constexpr,
    SPLITS: tl.constexpr, LEAST_TILES: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    STAGES: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """scale: of the logits, with log2 e in it where nothing caps them; WINDOW 0: none; WIDTH: D up to a power of two;
    LEAST_TILES: of positions, that a split is made for.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    group: tl.constexpr = HEADS // KV_HEADS
    real = tl.load(query_start + requests)
    dims = tl.arange(0, WIDTH)
    lanes = tl.arange(0, ROWS)
    row_heads = kv_head * group + lanes % group

    if SPLITS == 1:
        for padding in range(real + tile, tokens, tl.num_programs(0)):
            zeros = out + (padding * HEADS + row_heads.to(tl.int64)[:, None]) * HEAD_DIM + dims[None, :]
            rows_once = (lanes < group)[:, None] & (dims < HEAD_DIM)[None, :]
            tl.store(zeros, tl.zeros((ROWS, WIDTH), out.dtype.element_ty), mask=rows_once)

    request = tile if ONE_TILE else _owner(query_start, requests, tile, TOKENS)
    begin = tl.load(query_start + request)
    length = tl.load(query_start + request + 1) - begin
    first = 0 if ONE_TILE else (tile - begin // TOKENS - request) * TOKENS  # of the request's tokens
    if first >= length:
        return
    past = tl.load(context + request)
    last = tl.minimum(first + TOKENS, length) - 1
    end = past + last + 1
    offsets = first + lanes // group
    own = past + offsets  # position of every row's token
    here = (lanes < TOKENS * group) & (offsets < length)
    token = (begin + offsets).to(tl.int64)
    state = token * HEADS + row_heads

    start = 0
    if WINDOW:
        start = tl.maximum(past + first - WINDOW + 1, 0) // COLUMNS * COLUMNS
    if SPLITS > 1:
        tiles = (end - start + COLUMNS - 1) // COLUMNS
        each = tl.maximum((tiles + SPLITS - 1) // SPLITS, LEAST_TILES) * COLUMNS
        start += split * each
        end = tl.minimum(end, start + each)
        if start >= end:
            tl.store(weights + state * SPLITS + split, tl.full((ROWS,), float("-inf"), tl.float32), mask=here)
            return

    inside = (dims < HEAD_DIM)[None, :]
    q_mask = here[:, None] & inside
    q_at = query + token[:, None] * query_stride + row_heads[:, None] * head_stride + dims[None, :]
    q = tl.load(q_at, mask=q_mask, other=0.0)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    if SINKS:  # they weigh once, in the first split
        top = tl.where(split == 0, tl.load(sinks + row_heads).to(tl.float32) * _LOG2E, top)
        total += tl.where(split == 0, 1.0, 0.0)
    found = tl.zeros((ROWS, WIDTH), tl.float32)
    final = tl.minimum(own, end - 1)  # the last position that a row sees in this split
    table = blocks + request.to(tl.int64) * table_stride
    heads_kv = kv + kv_head * HEAD_DIM + dims

    for at in tl.range(start, end, COLUMNS, num_stages=STAGES):
        positions = at + tl.arange(0, COLUMNS)
        near = tl.minimum(positions, end - 1)  # columns without a position read a neighbour's, and weigh nothing
        if WINDOW:
            near = tl.maximum(near, past + first - WINDOW + 1)
        slots = (tl.load(table + (near >> BLOCK_BITS)).to(tl.int64) << BLOCK_BITS) + (near & ((1 << BLOCK_BITS) - 1))
        places = heads_kv[None, :] + slots[:, None] * (2 * KV_HEADS * HEAD_DIM)
        keys = tl.load(places) if WIDTH == HEAD_DIM else tl.load(places, mask=inside, other=0.0)
        logits = _dot(q, tl.trans(keys), tl.zeros((ROWS, COLUMNS), tl.float32), WIDEN) * scale
        if SOFTCAP:
            logits = softcap * (1.0 - 2.0 / (tl.exp2(logits) + 1.0))
        seen = positions[None, :] <= final[:, None]
        if WINDOW:
            seen = seen & (positions[None, :] > own[:, None] - WINDOW)
        logits = tl.where(seen, logits, float("-inf"))
        highest = tl.maximum(top, tl.max(logits, 1))
        pivot = tl.where(highest == float("-inf"), 0.0, highest)  # a row that has seen nothing yet
        shares = tl.exp2(logits - pivot[:, None])
        keep = tl.exp2(top - pivot)
        total = total * keep + tl.sum(shares, 1)
        places += KV_HEADS * HEAD_DIM
        values = tl.load(places) if WIDTH == HEAD_DIM else tl.load(places, mask=inside, other=0.0)
        found = _dot(shares.to(values.dtype), values, found * keep[:, None], WIDEN)
        top = highest

    found = found / tl.where(total > 0.0, total, 1.0)[:, None]
    if SPLITS == 1:
        tl.store(out + state[:, None] * HEAD_DIM + dims[None, :], found.to(out.dtype.element_ty), mask=q_mask)
    else:
        left = state * SPLITS + split
        tl.store(partial + left[:, None] * HEAD_DIM + dims[None, :], found, mask=q_mask)
        tl.store(weights + left, top + tl.log2(total), mask=here)


@triton.jit(do_not_specialize=["requests"])
def combine_kernel(
    partial, weights, query_start, out, requests,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program per token and head. Sums of splits without weight are never read; padding tokens get zeros."""
    token = tl.program_id(0)
    state = token.to(tl.int64) * HEADS + tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    inside = dims < HEAD_DIM
    if token >= tl.load(query_start + requests):
        tl.store(out + state * HEAD_DIM + dims, tl.zeros((WIDTH,), out.dtype.element_ty), mask=inside)
        return
    splits = tl.arange(0, BLOCK)
    logs = tl.load(weights + state * SPLITS + splits, mask=splits < SPLITS, other=float("-inf"))
    shares = tl.exp2(logs - tl.max(logs, 0))
    mask = (logs > float("-inf"))[:, None] & inside[None, :]
    places = partial + (state * SPLITS + splits)[:, None] * HEAD_DIM + dims[None, :]
    found = tl.sum(tl.load(places, mask=mask, other=0.0) * shares[:, None], 0) / tl.sum(shares, 0)
    tl.store(out + state * HEAD_DIM + dims, found.to(out.dtype.element_ty), mask=inside)


def _machine(device: torch.device) -> dict[str, int]:
    """What a plan wants to know of a GPU; of the interpreter, nothing."""
    if device.type != "cuda":
        return {}
    properties: Any = torch.cuda.get_device_properties(device)
    shared_bytes: int = properties.shared_memory_per_block_optin
    return {"multiprocessors": properties.multi_processor_count, "shared_bytes": shared_bytes}


def launch_constants(
    plan: Plan,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    window: int | None = None,
    softcap: bool = False,
    sinks: bool = False,
) -> dict[str, object]:
    """What `attention_kernel` is compiled for."""
    return {
        "HEADS": heads, "KV_HEADS": kv_heads, "HEAD_DIM": head_dim, "BLOCK_BITS": block_size.bit_length() - 1,
        "WINDOW": window or 0, "SOFTCAP": softcap, "SINKS": sinks, "ONE_TILE": plan.one_tile,
        "SPLITS": plan.splits, "LEAST_TILES": plan.least_tiles,
        "TOKENS": plan.tokens, "ROWS": plan.rows, "COLUMNS": plan.columns, "WIDTH": plan.width,
        "STAGES": plan.stages, "WIDEN": interpreted(),
    }  # fmt: skip


def ragged_attention(
    query: Tensor,
    kv: Tensor,
    rows: RaggedRows,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    plan: Plan | None = None,
) -> Tensor:
    """As `reference.ragged_attention`; how it is divided among programs may be given, for tests."""
    tokens, heads, head_dim = query.shape
    requests, kv_heads = len(rows.context), kv.shape[2]
    if not requests or not tokens or not rows.longest_query:
        return torch.zeros_like(query, memory_format=torch.contiguous_format)
    plan = plan or plan_of(
        rows, tokens=tokens, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=query.dtype, window=window,
        **_machine(query.device),
    )  # fmt: skip
    out = torch.empty((tokens, heads, head_dim), dtype=query.dtype, device=query.device)
    partial = weights = out
    if plan.splits > 1:
        partial = torch.empty((tokens, heads, plan.splits, head_dim), dtype=torch.float32, device=query.device)
        weights = torch.empty((tokens, heads, plan.splits), dtype=torch.float32, device=query.device)
    log2e = _LOG2E.value
    attention_kernel[(plan.tiles, kv_heads, plan.splits)](
        query, kv, rows.query_start, rows.context, rows.blocks, query if sinks is None else sinks,
        out, partial, weights,
        scaling * log2e if softcap is None else 2.0 * log2e * scaling / softcap,
        0.0 if softcap is None else softcap * log2e,
        query.stride(0), query.stride(1), rows.blocks.stride(0), tokens, requests,
        num_warps=plan.warps,
        **launch_constants(
            plan, heads=heads, kv_heads=kv_heads, head_dim=head_dim, block_size=rows.block_size,
            window=window, softcap=softcap is not None, sinks=sinks is not None,
        ),
    )  # fmt: skip
    if plan.splits > 1:
        block = triton.next_power_of_2(plan.splits)
        combine_kernel[(tokens, heads)](
            partial, weights, rows.query_start, out, requests,
            HEADS=heads, HEAD_DIM=head_dim, SPLITS=plan.splits, BLOCK=block, WIDTH=plan.width,
            num_warps=1 if block * plan.width <= 1024 else 4,
        )  # fmt: skip
    return out
