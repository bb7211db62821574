"""A matrix product whose sums are fp32, on tensor cores and in the interpreter."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["product"]


@triton.jit
def product(left, right, sums, WIDEN: tl.constexpr):
    """sums + left·right. fp32 operands are multiplied exactly; WIDEN for the interpreter, which multiplies the bits of
    bf16 numbers as integers.
    """
    if WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    precision: tl.constexpr = "ieee" if left.dtype == tl.float32 else "tf32"
    return tl.dot(left, right, sums, input_precision=precision)
