"""Benchmark of the row operations, at a hidden size of 4096 and an intermediate size of 12288."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from outrider_kernels.benching import Case, Variant
from outrider_kernels.row_ops import add_norm, silu_mul

__all__ = ["cases", "code_variants"]

_HIDDEN: Final = 4096
_INTERMEDIATE: Final = 12288
_DTYPE: Final = torch.bfloat16
_ROWS: Final = (8, 256, 2048)


def cases() -> list[Case]:
    """Both at the rows of a decoding step, a verification and a prefill."""
    found = []
    for rows in _ROWS:
        size = (4 * rows + 1) * _HIDDEN * _DTYPE.itemsize
        # per element: the sum 1, square and sum 2, norm 2
        found.append(Case(f"add and norm, {rows} rows", partial(_add_norm, rows), size, 5 * rows * _HIDDEN, "fp32"))
        size = 3 * rows * _INTERMEDIATE * _DTYPE.itemsize
        # per element: exponential 2, sum, quotient, product
        found.append(Case(f"gate, {rows} rows", partial(_silu_mul, rows), size, 5 * rows * _INTERMEDIATE, "fp32"))
    return found


def _add_norm(rows: int, device: torch.device) -> Callable[[], object]:
    hidden, added = (torch.randn(rows, _HIDDEN, dtype=_DTYPE, device=device) for _ in range(2))
    weight = torch.ones(_HIDDEN, dtype=_DTYPE, device=device)
    return lambda: add_norm(hidden, added, weight, 1e-6)


def _silu_mul(rows: int, device: torch.device) -> Callable[[], object]:
    gate_up = torch.randn(rows, 2 * _INTERMEDIATE, dtype=_DTYPE, device=device)
    return lambda: silu_mul(gate_up)


def code_variants() -> list[Variant]:
    """Both kernels at these sizes."""
    from outrider_kernels.row_ops.triton import TILE, add_norm_kernel, norm_warps, silu_mul_kernel

    pointers = ("hidden", "added", "weight", "total", "normed")
    sizes = ("hidden_stride", "added_stride", "width")
    signature = {**dict.fromkeys(pointers, "*bf16"), **dict.fromkeys(sizes, "i32"), "eps": "fp32"}
    signature |= {"ADD": "constexpr", "BLOCK": "constexpr"}
    norm = Variant(
        "add and norm", add_norm_kernel, signature, {"ADD": True, "BLOCK": _HIDDEN}, (*pointers, *sizes),
        {"num_warps": norm_warps(_HIDDEN)}, elements=_HIDDEN, wide_loads=True,
    )  # fmt: skip
    arguments = {"gate_up": "*bf16", "out": "*bf16", "stride": "i32", "width": "i32"}
    gate = Variant(
        "gate", silu_mul_kernel, {**arguments, "BLOCK": "constexpr"}, {"BLOCK": TILE}, tuple(arguments),
        {"num_warps": 4}, elements=TILE, wide_loads=True,
    )  # fmt: skip
    return [norm, gate]
