"""Laying out a round on the device: how much of each drafted block is verified.

Shapes: D drafted blocks, R requests, g slots of a block, C classes of traffic, P points of a calibration map.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from outrider_kernels.dispatch import UnsupportedArgument, check_tensor, use_triton
from outrider_kernels.round_layout import reference

__all__ = ["cut"]

_LARGEST: Final = 1 << 13
"""Slots of all requests that one program ranks; the reference serves more."""


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
    """Depths int32 [R]: of all slots within `caps` the `allowed` int32 [1] of largest weight × calibrated survival.

    confidence fp32 logits [D, g]; drafted int64 [R] is the row of a request's block, −1 without; classes int64 [R];
    temperatures fp32 [C, g]; maps fp32 [C, g, P] from `inputs`, ascending, to `outputs`, or None; weights fp32 [R],
    caps and whole int32 [R]. Requests that are `whole` (not 0) come first, up to their cap. Ties are broken by slot,
    then request. Survival does not rise along a row, so what is taken of a row is a prefix. Raises UnsupportedArgument.
    """
    op, device = "cut", confidence.device
    check_tensor(op, "confidence", confidence, (None, None), (torch.float32,))
    requests, slots = drafted.shape[:1], confidence.shape[1]
    check_tensor(op, "drafted", drafted, (None,), (torch.int64,), device=device)
    check_tensor(op, "classes", classes, requests, (torch.int64,), device=device)
    check_tensor(op, "temperatures", temperatures, (None, slots), (torch.float32,), device=device, contiguous=True)
    if (inputs is None) != (outputs is None):
        raise UnsupportedArgument(op, "outputs", "must be given where inputs are, and only there")
    for name, points in (("inputs", inputs), ("outputs", outputs)):
        if points is not None and inputs is not None:
            shape = (*temperatures.shape, inputs.shape[-1])
            check_tensor(op, name, points, shape, (torch.float32,), device=device, contiguous=True)
    check_tensor(op, "weights", weights, requests, (torch.float32,), device=device)
    for name, column in (("caps", caps), ("whole", whole)):
        check_tensor(op, name, column, requests, (torch.int32,), device=device)
    check_tensor(op, "allowed", allowed, (1,), (torch.int32,), device=device)
    if requests[0] * slots <= _LARGEST and use_triton(op, device):
        from outrider_kernels.round_layout import triton

        return triton.cut(confidence, drafted, classes, temperatures, inputs, outputs, weights, caps, whole, allowed)
    return reference.cut(confidence, drafted, classes, temperatures, inputs, outputs, weights, caps, whole, allowed)
