"""The appends on a GPU. rotate_append: one program per token and a few heads of one kind (query, key or value)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["HEADS_AT_ONCE", "TILE", "append_kernel", "append_rows", "rotate_append", "rotate_append_kernel"]

TILE = 2048
HEADS_AT_ONCE = 8


@triton.jit
def append_kernel(rows, plane, slots, rows_stride, plane_stride, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    if slot >= 0:
        lanes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = lanes < width
        x = tl.load(rows + row * rows_stride + lanes, mask=inside)
        tl.store(plane + slot * plane_stride + lanes, x.to(plane.dtype.element_ty), mask=inside)


@triton.jit
def _cos_sin(angles):
    """Cosine and sine, fp32, within 2⁻²² for angles below 2²⁰ in size.

    The library's own keep a table in local memory for angles that no position has. Quarter turns are taken off in fp64,
    where they are exact; the rest is Cephes' sinf and cosf.
    """
    turns = tl.floor(angles * 0.6366197723675814 + 0.5)
    wide = turns.to(tl.float64)
    x = (angles.to(tl.float64) - wide * 1.5707963705062866 + wide * 4.371139000186241e-08).to(tl.float32)
    z = x * x
    sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + x
    cosine = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0
    quarter = turns.to(tl.int32) & 3
    odd = (quarter & 1) == 1
    cos, sin = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    return tl.where((quarter == 1) | (quarter == 2), -cos, cos), tl.where(quarter >= 2, -sin, sin)


@triton.jit
def _turned(low, high, norm, angles, lanes, inside, eps, rotation_scale, HALF: tl.constexpr, NORM: tl.constexpr):
    """Both halves of some heads fp32 [heads, BLOCK]: normed where NORM, then turned."""
    if NORM:
        mean = (tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF)
        scale = tl.rsqrt(mean + eps)[:, None]
        low = low * scale * tl.load(norm + lanes, mask=inside, other=0.0).to(tl.float32)[None, :]
        high = high * scale * tl.load(norm + HALF + lanes, mask=inside, other=0.0).to(tl.float32)[None, :]
    cos, sin = _cos_sin(angles)
    cos, sin = (cos * rotation_scale)[None, :], (sin * rotation_scale)[None, :]
    return low * cos - high * sin, high * cos + low * sin


@triton.jit
def rotate_append_kernel(
    qkv, positions, slots, kv, query, q_norm, k_norm, frequencies, qkv_stride, eps, rotation_scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr,
    AT_ONCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    query_parts: tl.constexpr = (HEADS + AT_ONCE - 1) // AT_ONCE
    key_parts: tl.constexpr = (KV_HEADS + AT_ONCE - 1) // AT_ONCE
    is_query, is_value = part < query_parts, part >= query_parts + key_parts
    slot = tl.load(slots + token)
    if not is_query and slot < 0:
        return
    part -= tl.where(is_query, 0, query_parts) + tl.where(is_value, key_parts, 0)
    count = tl.where(is_query, HEADS, KV_HEADS)
    before = tl.where(is_query, 0, HEADS) + tl.where(is_value, KV_HEADS, 0)  # heads of the kinds before

    lanes = tl.arange(0, BLOCK)
    heads = part * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = lanes < HALF
    here = (heads < count)[:, None] & inside[None, :]
    offsets = heads[:, None] * (2 * HALF) + lanes[None, :]
    source = qkv + token * qkv_stride + before * (2 * HALF) + offsets
    low, high = tl.load(source, mask=here, other=0.0), tl.load(source + HALF, mask=here, other=0.0)
    if is_value:
        target = kv + (slot * 2 + 1) * (KV_HEADS * 2 * HALF) + offsets
        tl.store(target, low, mask=here)
        tl.store(target + HALF, high, mask=here)
        return
    angles = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + lanes, mask=inside, other=0.0)
    norm = q_norm if is_query else k_norm
    low, high = low.to(tl.float32), high.to(tl.float32)
    low, high = _turned(low, high, norm, angles, lanes, inside, eps, rotation_scale, HALF, NORM)
    low, high = low.to(kv.dtype.element_ty), high.to(kv.dtype.element_ty)
    target = (query + token * (HEADS * 2 * HALF) if is_query else kv + slot * (2 * KV_HEADS * 2 * HALF)) + offsets
    tl.store(target, low, mask=here)
    tl.store(target + HALF, high, mask=here)


def append_rows(rows: Tensor, plane: Tensor, slots: Tensor) -> None:
    """As `reference.append_rows`."""
    if rows.numel() and plane.numel():
        width = rows[0].numel()
        grid = (len(rows), triton.cdiv(width, TILE))
        append_kernel[grid](rows, plane, slots, rows.stride(0), plane.stride(0), width, BLOCK=TILE, num_warps=4)


def rotate_append(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    kv: Tensor,
    *,
    heads: int,
    kv_heads: int,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    frequencies: Tensor,
    rotation_scale: float = 1.0,
) -> Tensor:
    """As `reference.rotate_append`."""
    half = len(frequencies)
    query = torch.empty((len(qkv), heads, 2 * half), dtype=qkv.dtype, device=qkv.device)
    if len(qkv):
        parts = triton.cdiv(heads, HEADS_AT_ONCE) + 2 * triton.cdiv(kv_heads, HEADS_AT_ONCE)
        rotate_append_kernel[(len(qkv), parts)](
            qkv, positions, slots, kv, query,
            frequencies if q_norm is None else q_norm, frequencies if k_norm is None else k_norm, frequencies,
            qkv.stride(0), eps, rotation_scale,
            HEADS=heads, KV_HEADS=kv_heads, HALF=half, NORM=q_norm is not None,
            AT_ONCE=HEADS_AT_ONCE, BLOCK=triton.next_power_of_2(half), num_warps=1,
        )  # fmt: skip
    return query
