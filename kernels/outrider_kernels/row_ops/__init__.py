"""What a decoder layer does row by row between its products: add and normalise, gate and multiply.

Shapes: B rows, d hidden size, I intermediate size.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from outrider_kernels.dispatch import UnsupportedArgument, check_tensor, use_triton
from outrider_kernels.row_ops import reference

__all__ = ["add_norm", "silu_mul"]

_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST: Final = 1 << 16
"""A row is normalised by one program, which holds all of it."""


def add_norm(hidden: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """hidden + added, rounded to the dtype (`hidden` itself where nothing is added), and its RMS norm times `weight`.

    hidden and added [B, d], weight [d], of one dtype; the norm is computed in fp32 and rounded once. Raises
    UnsupportedArgument.
    """
    op = "add_norm"
    check_tensor(op, "hidden", hidden, (None, None), _DTYPES)
    if added is not None:
        check_tensor(op, "added", added, hidden.shape, (hidden.dtype,), device=hidden.device)
    check_tensor(op, "weight", weight, hidden.shape[1:], (hidden.dtype,), device=hidden.device)
    if not 1 <= hidden.shape[1] <= _WIDEST:
        raise UnsupportedArgument(op, "hidden", f"has rows of {hidden.shape[1]}; 1 to {_WIDEST} would do")
    if use_triton(op, hidden.device):
        from outrider_kernels.row_ops import triton

        return triton.add_norm(hidden, added, weight, eps)
    return reference.add_norm(hidden, added, weight, eps)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) · up, [B, I], of gate_up [B, 2I]: gate first. In fp32, rounded once. Raises UnsupportedArgument."""
    check_tensor("silu_mul", "gate_up", gate_up, (None, None), _DTYPES)
    if gate_up.shape[1] % 2:
        raise UnsupportedArgument("silu_mul", "gate_up", f"has rows of {gate_up.shape[1]}, which is not even")
    if use_triton("silu_mul", gate_up.device):
        from outrider_kernels.row_ops import triton

        return triton.silu_mul(gate_up)
    return reference.silu_mul(gate_up)
