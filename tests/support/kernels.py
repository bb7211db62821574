"""Where kernel tests run: on a GPU where there is one, else on the CPU through Triton's interpreter."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["DEVICE", "DTYPES", "assert_best", "bound", "poisoned"]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

_EPSILON = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half the distance from 1 to the next number: what one rounding costs, relatively."""


def bound(dtype: torch.dtype, terms: int, size: float) -> float:
    """Largest difference of two sums of `terms` products of magnitude `size`, kept in fp32 and rounded to `dtype` once.

    Each fp32 addition rounds by at most 2⁻²⁴ of a partial sum; errors add up as √terms for the random signs of test
    data, and 8 times that is never reached by chance.
    """
    return size * (8 * terms**0.5 * _EPSILON[torch.float32] + 2 * _EPSILON[dtype])


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that is NaN (all bits set, for integers) until somebody writes to it."""
    if dtype.is_floating_point:
        return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)
    return torch.full(shape, -1, dtype=dtype, device=DEVICE)


def assert_best(tokens: Tensor, scores: Tensor, slack: float | Tensor) -> None:
    """Every chosen token [n] has the highest of its row's scores [n, V], or one less than `slack` below it."""
    best = scores.amax(dim=-1)
    short = best - scores.gather(-1, tokens[:, None]).squeeze(-1)
    bad = ~((short <= slack) | (best == float("-inf")))
    assert not bad.any(), f"rows {bad.nonzero().flatten().tolist()} chose what is {short[bad].tolist()} below the best"
