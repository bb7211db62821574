"""Benchmark of cutting blocks of 7 slots, at 64, 256 and 1024 requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from outrider_kernels.benching import Case, Variant
from outrider_kernels.round_layout import cut

__all__ = ["cases", "code_variants"]

_SLOTS: Final = 7
_POINTS: Final = 16
_REQUESTS: Final = (64, 256, 1024)


def cases() -> list[Case]:
    """With calibration maps, as served."""
    found = []
    for requests in _REQUESTS:
        # a request: its row of logits, two int64, three int32 or fp32, its depth; the tables once
        size = requests * (4 * _SLOTS + 32) + 4 * _SLOTS * (1 + 2 * _POINTS)
        # per candidate: 44 comparisons and additions, two per point of the map
        operations = requests * _SLOTS * 2 * (44 + _POINTS)
        found.append(Case(f"cut, {requests} requests", partial(_cut, requests), size, operations, "int32"))
    return found


def _cut(requests: int, device: torch.device) -> Callable[[], object]:
    confidence = torch.randn(requests, _SLOTS, device=device)
    drafted = torch.arange(requests, device=device)
    classes = torch.zeros(requests, dtype=torch.int64, device=device)
    inputs = torch.linspace(0, 1, _POINTS, device=device).expand(1, _SLOTS, _POINTS).contiguous()
    weights = torch.ones(requests, device=device)
    caps = torch.full((requests,), _SLOTS, dtype=torch.int32, device=device)
    allowed = torch.full((1,), requests * _SLOTS // 2, dtype=torch.int32, device=device)
    ones = torch.ones(1, _SLOTS, device=device)
    whole = torch.zeros_like(caps)
    return lambda: cut(confidence, drafted, classes, ones, inputs, inputs, weights, caps, whole, allowed)


def code_variants() -> list[Variant]:
    """The kernel at 256 requests."""
    from outrider_kernels.counter_noise.triton import EXACT
    from outrider_kernels.round_layout.triton import cut_kernel, warps

    kinds = {
        **dict.fromkeys(("confidence",), "*fp32"), **dict.fromkeys(("drafted", "classes"), "*i64"),
        **dict.fromkeys(("temperatures", "inputs", "outputs", "weights"), "*fp32"),
        **dict.fromkeys(("caps", "whole", "allowed", "depths"), "*i32"),
        **dict.fromkeys(("requests", "confidence_stride", "points"), "i32"),
    }  # fmt: skip
    constants = {"slots": _SLOTS, "MAPPED": True, "ROWS": 256, "SLOTS": 8}
    signature = {**kinds, **dict.fromkeys(constants, "constexpr")}
    options = {"num_warps": warps(256 * _SLOTS), **EXACT}
    return [Variant("cut", cut_kernel, signature, constants, (), options, elements=256 * _SLOTS)]
