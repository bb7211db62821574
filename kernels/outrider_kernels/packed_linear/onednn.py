"""The product through oneDNN with a packed weight.

The two operators are what torch's own compiler emits for frozen CPU linears; they are not public API, so their
presence and their answer are checked once before they are used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

__all__ = ["OneDnnLinear", "onednn_fits"]


class OneDnnLinear:
    """x [..., K] → x·Wᵀ [..., N] in fp32; holds its own packed copy of the weight [N, K]."""

    def __init__(self, weight: Tensor) -> None:
        ops: Any = torch.ops.mkldnn
        self._packed: Tensor = ops._reorder_linear_weight(weight.detach().contiguous())
        self._product = ops._linear_pointwise

    def __call__(self, rows: Tensor, /) -> Tensor:
        result: Tensor = self._product(rows, self._packed, None, "none", [], "")
        return result


def onednn_fits(weight: Tensor) -> bool:
    """Whether `weight` can be packed: fp32 on the CPU, and this torch has the operators."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.ndim == 2 and _works()


@cache
def _works() -> bool:
    """Try the operators on a small product; any failure or difference means no."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    weight, rows = torch.linspace(-1, 1, 48 * 32).view(48, 32), torch.linspace(-1, 1, 3 * 32).view(1, 3, 32)
    try:
        found = OneDnnLinear(weight)(rows)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return bool(torch.allclose(found, linear(rows, weight), atol=1e-4))
