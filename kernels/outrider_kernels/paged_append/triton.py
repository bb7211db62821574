"""The appends on a GPU. rotate_append: one program per token and a few heads of one kind (query, key or value)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["append_kernel", "append_rows", "rotate_append", "rotate_append_kernel"]

_TILE = 2048
_HEADS_AT_ONCE = 8


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
def _turned(low, high, norm, lanes, inside, cos, sin, eps, HALF: tl.constexpr, NORM: tl.constexpr):
    """Both halves of some heads fp32 [heads, BLOCK]: normed where NORM, then turned."""
    if NORM:
        mean = (tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF)
        scale = tl.rsqrt(mean + eps)[:, None]
        low = low * scale * tl.load(norm + lanes, mask=inside, other=0.0).to(tl.float32)[None, :]
        high = high * scale * tl.load(norm + HALF + lanes, mask=inside, other=0.0).to(tl.float32)[None, :]
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
    lanes = tl.arange(0, BLOCK)
    heads = tl.arange(0, AT_ONCE)
    inside = lanes < HALF
    source = qkv + token * qkv_stride
    if part < query_parts:
        heads += part * AT_ONCE
        here = (heads < HEADS)[:, None] & inside[None, :]
        offsets = heads[:, None] * (2 * HALF) + lanes[None, :]
        low = tl.load(source + offsets, mask=here, other=0.0).to(tl.float32)
        high = tl.load(source + HALF + offsets, mask=here, other=0.0).to(tl.float32)
        angles = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + lanes, mask=inside, other=0.0)
        cos, sin = (tl.cos(angles) * rotation_scale)[None, :], (tl.sin(angles) * rotation_scale)[None, :]
        low, high = _turned(low, high, q_norm, lanes, inside, cos, sin, eps, HALF, NORM)
        target = query + token * (HEADS * 2 * HALF)
        tl.store(target + offsets, low.to(query.dtype.element_ty), mask=here)
        tl.store(target + HALF + offsets, high.to(query.dtype.element_ty), mask=here)
    else:
        slot = tl.load(slots + token)
        if slot >= 0:
            is_value = part >= query_parts + key_parts
            heads += (part - query_parts - tl.where(is_value, key_parts, 0)) * AT_ONCE
            here = (heads < KV_HEADS)[:, None] & inside[None, :]
            offsets = heads[:, None] * (2 * HALF) + lanes[None, :]
            source += (HEADS + tl.where(is_value, KV_HEADS, 0)) * (2 * HALF)
            low = tl.load(source + offsets, mask=here, other=0.0).to(tl.float32)
            high = tl.load(source + HALF + offsets, mask=here, other=0.0).to(tl.float32)
            if not is_value:
                angles = tl.load(positions + token).to(tl.float32) * tl.load(
                    frequencies + lanes, mask=inside, other=0.0
                )
                cos, sin = (tl.cos(angles) * rotation_scale)[None, :], (tl.sin(angles) * rotation_scale)[None, :]
                low, high = _turned(low, high, k_norm, lanes, inside, cos, sin, eps, HALF, NORM)
            target = kv + (slot * 2 + tl.where(is_value, 1, 0)) * (KV_HEADS * 2 * HALF)
            tl.store(target + offsets, low.to(kv.dtype.element_ty), mask=here)
            tl.store(target + HALF + offsets, high.to(kv.dtype.element_ty), mask=here)


def append_rows(rows: Tensor, plane: Tensor, slots: Tensor) -> None:
    """As `reference.append_rows`."""
    if rows.numel() and plane.numel():
        width = rows[0].numel()
        grid = (len(rows), triton.cdiv(width, _TILE))
        append_kernel[grid](rows, plane, slots, rows.stride(0), plane.stride(0), width, BLOCK=_TILE, num_warps=4)


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
        parts = triton.cdiv(heads, _HEADS_AT_ONCE) + 2 * triton.cdiv(kv_heads, _HEADS_AT_ONCE)
        rotate_append_kernel[(len(qkv), parts)](
            qkv, positions, slots, kv, query,
            frequencies if q_norm is None else q_norm, frequencies if k_norm is None else k_norm, frequencies,
            qkv.stride(0), eps, rotation_scale,
            HEADS=heads, KV_HEADS=kv_heads, HALF=half, NORM=q_norm is not None,
            AT_ONCE=_HEADS_AT_ONCE, BLOCK=triton.next_power_of_2(half), num_warps=1,
        )  # fmt: skip
    return query
