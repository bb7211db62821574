"""How deep each block is verified, in plain torch: calibrated survival, then the best slots by a stable sort.

Shapes: D drafted blocks, R requests, g slots of a block, C classes, P points of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cut", "depths", "survival"]

_FIRST = 1e6
"""Key of slots that are verified whatever they promise."""


def cut(
    confidence: Tensor,
    drafted: Tensor,
    classes: Tensor,
    temperatures: Tensor,
    inputs: Tensor | None,
    outputs: Tensor | None,
    weights: Tensor,
    caps: Tensor,
    whole: Tensor,
    allowed: Tensor,
) -> Tensor:
    """As `outrider_kernels.round_layout.cut`."""
    live = survival(confidence[drafted.clamp(min=0)], classes, temperatures, inputs, outputs)
    return depths(live, weights, torch.where(drafted >= 0, caps, 0), whole, allowed)


def survival(
    confidence: Tensor, classes: Tensor, temperatures: Tensor, inputs: Tensor | None, outputs: Tensor | None
) -> Tensor:
    """Prefix survival fp32 [R, g] of confidence logits [R, g] for classes int64 [R]."""
    chance = torch.sigmoid(confidence / temperatures[classes])
    if inputs is None or outputs is None:
        return chance.cumprod(dim=1)
    before = torch.ones_like(chance[:, 0])
    columns = []
    for slot in range(chance.shape[1]):
        mapped = _interpolated(before * chance[:, slot], inputs[classes, slot], outputs[classes, slot])
        before = torch.where(chance[:, slot] > 0, torch.minimum(before, mapped), 0.0)
        columns.append(before)
    return torch.stack(columns, dim=1)


def _interpolated(values: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Piecewise linear through (inputs, outputs) [R, P] at values [R], level beyond the ends."""
    right = torch.searchsorted(inputs, values[:, None], right=True).clamp(1, max(inputs.shape[1] - 1, 1))
    right = right.clamp(max=inputs.shape[1] - 1)
    left = (right - 1).clamp(min=0)
    low, high = inputs.gather(1, left), inputs.gather(1, right)
    share = ((values[:, None] - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)
    start = outputs.gather(1, left)
    return (start + share * (outputs.gather(1, right) - start))[:, 0]


def depths(survival: Tensor, weights: Tensor, caps: Tensor, whole: Tensor, tokens: Tensor) -> Tensor:
    """int32 [R]: of all slots within caps the `tokens` int32 [1] of largest weight × survival, whole rows first."""
    slots = survival.shape[1]
    inside = torch.arange(slots, device=survival.device) < caps[:, None]
    values = torch.where(whole.bool()[:, None], _FIRST, weights[:, None] * survival)
    flat = torch.where(inside, values, 0.0).T.reshape(-1)
    ordered, order = flat.sort(descending=True, stable=True)
    taken = (ordered > 0) & (torch.arange(len(flat), device=flat.device) < tokens)
    found = torch.zeros_like(flat, dtype=torch.int32).scatter_(0, order, taken.int())
    return found.view(slots, -1).sum(dim=0, dtype=torch.int32)
