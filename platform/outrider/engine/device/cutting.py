"""The part of scheduling that reads live confidences, on the device: how much of each block is verified.

It repeats `Asynchronous.fill` on calibrated survival. The budget, a number of tokens, was decided before the draft from
what is at least one round old, so the size of the step is known to the host and nobody waits for a confidence.

Shapes: R requests, γ slots, C classes of traffic with calibrations of their own, P points of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Calibrations", "depths", "survival"]

_FIRST = 1e6
"""Key of slots that are verified whatever they promise."""


@dataclass(frozen=True, slots=True)
class Calibrations:
    """temperatures fp32 [C, γ]; maps [C, γ, P] from `inputs`, ascending, to `outputs`, None where no class has any."""

    temperatures: Tensor
    inputs: Tensor | None = None
    outputs: Tensor | None = None

    def take(self, others: Calibrations) -> bool:
        """Hold the others' numbers from now on; False, and nothing changes, where they are of another shape."""
        ours, theirs = ((each.temperatures, each.inputs, each.outputs) for each in (self, others))
        if [each is None or each.shape for each in ours] != [each is None or each.shape for each in theirs]:
            return False
        for kept, new in zip(ours, theirs, strict=True):
            if kept is not None and new is not None:
                kept.copy_(new)
        return True


def survival(confidence: Tensor, classes: Tensor, known: Calibrations) -> Tensor:
    """Prefix survival fp32 [R, γ], as `prefix_survival`, of confidence logits [R, γ] for classes int64 [R]."""
    chance = torch.sigmoid(confidence / known.temperatures[classes])
    if known.inputs is None or known.outputs is None:
        return chance.cumprod(dim=1)
    before = torch.ones_like(chance[:, 0])
    columns = []
    for slot in range(chance.shape[1]):
        mapped = _interpolated(before * chance[:, slot], known.inputs[classes, slot], known.outputs[classes, slot])
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
    """ℓ int32 [R]: of all slots within caps int32 [R] the `tokens` int32 [1] of largest weight × survival.

    whole: bool [R], requests whose block is verified to its cap; their slots come first and count among `tokens`. Ties
    are broken by slot, then request. Survival does not rise along a row, so what is taken of a row is a prefix.
    """
    slots = survival.shape[1]
    inside = torch.arange(slots, device=survival.device) < caps[:, None]
    values = torch.where(whole[:, None], _FIRST, weights[:, None] * survival)
    flat = torch.where(inside, values, 0.0).T.reshape(-1)
    ordered, order = flat.sort(descending=True, stable=True)
    taken = (ordered > 0) & (torch.arange(len(flat), device=flat.device) < tokens)
    return (
        torch.zeros_like(flat, dtype=torch.int32)
        .scatter_(0, order, taken.int())
        .view(slots, -1)
        .sum(dim=0, dtype=torch.int32)
    )
