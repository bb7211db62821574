"""The product as torch has it."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import Tensor
from torch.nn.functional import linear

__all__ = ["Linear", "plain_linear"]


class Linear(Protocol):
    """Rows [..., K] to rows [..., N]."""

    def __call__(self, rows: Tensor, /) -> Tensor: ...


def plain_linear(weight: Tensor) -> Linear:
    """A function x [..., K] → x·Wᵀ [..., N] for `weight` [N, K]; differentiable."""
    return partial(linear, weight=weight)
