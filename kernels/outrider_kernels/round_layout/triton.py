"""Cutting in one program: the threshold is found bit by bit, so that nothing is sorted.

A candidate's key is its value's bits, which order as the values do because none is negative, above its place in the
order of ties. Keys differ, so the n-th largest splits off exactly n.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from outrider_kernels.counter_noise.triton import EXACT

__all__ = ["cut", "cut_kernel", "warps"]


def warps(places: int) -> int:
    """Warps of the program for so many candidates, 8192 at most: their places take the lowest 13 bits of a key."""
    return 4 if places <= 1024 else 8 if places <= 4096 else 16


@triton.jit
def cut_kernel(
    confidence, drafted, classes, temperatures, inputs, outputs, weights, caps, whole, allowed, depths,
    requests, confidence_stride, points, slots: tl.constexpr, MAPPED: tl.constexpr, ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, ROWS)
    slot = tl.arange(0, SLOTS)
    real = row < requests
    block = tl.load(drafted + row, mask=real, other=-1)
    real_block = real & (block >= 0)
    kind = tl.load(classes + row, mask=real, other=0)
    cap = tl.load(caps + row, mask=real_block, other=0)
    before = tl.full([ROWS], 1.0, tl.float32)
    live = tl.zeros([ROWS, SLOTS], tl.float32)
    for k in range(slots):
        logit = tl.load(confidence + block * confidence_stride + k, mask=real_block, other=0.0)
        chance = 1.0 / (1.0 + tl.exp(-logit / tl.load(temperatures + kind * slots + k, mask=real, other=1.0)))
        value = before * chance
        if MAPPED:
            curve = (kind * slots + k) * points
            right = tl.zeros([ROWS], tl.int32)
            for p in range(points):
                right += (tl.load(inputs + curve + p, mask=real, other=0.0) <= value).to(tl.int32)
            right = tl.minimum(tl.maximum(right, 1), points - 1)
            left = tl.maximum(right - 1, 0)
            low = tl.load(inputs + curve + left, mask=real, other=0.0)
            high = tl.load(inputs + curve + right, mask=real, other=1.0)
            share = tl.minimum(tl.maximum((value - low) / tl.maximum(high - low, 1e-12), 0.0), 1.0)
            start = tl.load(outputs + curve + left, mask=real, other=0.0)
            end = tl.load(outputs + curve + right, mask=real, other=0.0)
            value = tl.where(chance > 0, tl.minimum(before, start + share * (end - start)), 0.0)
        before = value
        live = tl.where((slot == k)[None, :], before[:, None], live)
    first = tl.load(whole + row, mask=real, other=0) != 0
    value = tl.where(first[:, None], 1e6, tl.load(weights + row, mask=real, other=0.0)[:, None] * live)
    able = (slot[None, :] < cap[:, None]) & (slot[None, :] < slots) & (value > 0)
    place = slot[None, :] * requests + row[:, None]
    key = (value.to(tl.int32, bitcast=True).to(tl.int64) << 13) | (8191 - place).to(tl.int64)
    key = tl.where(able, key, -1)
    wanted = tl.minimum(tl.load(allowed), tl.sum(tl.sum(able.to(tl.int32), axis=1), axis=0))
    least = tl.zeros([], tl.int64)
    for step in range(44):
        tried = least | (tl.full([], 1, tl.int64) << (43 - step))
        above = tl.sum(tl.sum((key >= tried).to(tl.int32), axis=1), axis=0)
        least = tl.where(above >= wanted, tried, least)
    taken = (key >= least) & (wanted > 0)
    tl.store(depths + row, tl.sum(taken.to(tl.int32), axis=1), mask=real)


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
    """As `outrider_kernels.round_layout.cut`, in one launch."""
    requests, slots = len(drafted), confidence.shape[1]
    found = torch.empty(requests, dtype=torch.int32, device=confidence.device)
    if not requests:
        return found
    mapped = inputs is not None and outputs is not None
    cut_kernel[(1,)](
        confidence, drafted, classes, temperatures, inputs if mapped else temperatures,
        outputs if mapped else temperatures, weights, caps, whole, allowed, found, requests, confidence.stride(0),
        1 if inputs is None else inputs.shape[2], slots, MAPPED=mapped, ROWS=triton.next_power_of_2(requests),
        SLOTS=triton.next_power_of_2(slots), num_warps=warps(requests * slots), **EXACT,
    )  # fmt: skip
    return found
