"""The row operations in torch: fp32 inside, one rounding at the end."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_norm", "silu_mul"]


def add_norm(hidden: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum in the dtype of its terms, and the norm of what that left."""
    total = hidden if added is None else hidden + added
    return total, torch.rms_norm(total.float(), total.shape[1:], weight.float(), eps).to(hidden.dtype)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) · up."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)
