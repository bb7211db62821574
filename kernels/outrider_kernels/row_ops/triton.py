"""The row operations on a GPU. add_norm: one program per row; silu_mul: one per tile of a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["TILE", "add_norm", "add_norm_kernel", "norm_warps", "silu_mul", "silu_mul_kernel"]

TILE = 1024


@triton.jit
def add_norm_kernel(
    hidden,
    added,
    weight,
    total,
    normed,
    hidden_stride,
    added_stride,
    width,
    eps,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    inside = lanes < width
    x = tl.load(hidden + row * hidden_stride + lanes, mask=inside, other=0.0)
    if ADD:
        more = tl.load(added + row * added_stride + lanes, mask=inside, other=0.0)
        x = (x.to(tl.float32) + more.to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + row * width + lanes, x, mask=inside)
    x = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    w = tl.load(weight + lanes, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * width + lanes, (x * scale * w).to(normed.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul_kernel(gate_up, out, stride, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = lanes < width
    gate = tl.load(gate_up + row * stride + lanes, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + width + lanes, mask=inside, other=0.0).to(tl.float32)
    silu = gate / (1.0 + tl.exp(-gate))
    tl.store(out + row * width + lanes, (silu * up).to(out.dtype.element_ty), mask=inside)


def norm_warps(block: int) -> int:
    """Warps of a row's program: 16 values a thread, as far as 16 warps go."""
    return min(max(block // 512, 1), 16)


def add_norm(hidden: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `reference.add_norm`."""
    rows, width = hidden.shape
    normed = torch.empty((rows, width), dtype=hidden.dtype, device=hidden.device)
    total = hidden if added is None else torch.empty_like(normed)
    more = hidden if added is None else added
    if rows:
        block = triton.next_power_of_2(width)
        add_norm_kernel[(rows,)](
            hidden, more, weight, total, normed, hidden.stride(0), more.stride(0), width, eps,
            ADD=added is not None, BLOCK=block, num_warps=norm_warps(block),
        )  # fmt: skip
    return total, normed


def silu_mul(gate_up: Tensor) -> Tensor:
    """As `reference.silu_mul`."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
    if out.numel():
        grid = (rows, triton.cdiv(width, TILE))
        silu_mul_kernel[grid](gate_up, out, gate_up.stride(0), width, BLOCK=TILE, num_warps=4)
    return out
