"""The part of scheduling that reads live confidences, on the device: how much of each block is verified.

It repeats `Asynchronous.fill` on calibrated survival. The budget, a number of tokens, was decided before the draft from
what is at least one round old, so the size of the step is known to the host and nobody waits for a confidence.

Shapes: R requests, γ slots, C classes of traffic with calibrations of their own, P points of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from outrider_kernels import round_layout

__all__ = ["Calibrations", "cut"]


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


def cut(confidence: Tensor, stage: Mapping[str, Tensor], caps: Tensor, known: Calibrations) -> Tensor:
    """Depths int32 [R] of blocks with confidence logits [D, γ], for the first R requests of what was staged."""
    drafted, classes, weights, whole = (stage[name][: len(caps)] for name in ("drafted", "classes", "weights", "whole"))
    return round_layout.cut(
        confidence, drafted, classes, known.temperatures, known.inputs, known.outputs, weights, caps, whole,
        stage["allowed"],
    )  # fmt: skip
