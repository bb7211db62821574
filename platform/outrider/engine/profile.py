"""Measuring a target's step-cost curve where it serves: a profile from another host is wrong here."""

from __future__ import annotations

import contextlib
import time

import torch

from outrider.engine.attention import Span
from outrider.engine.batch import FlatBatch
from outrider.engine.cache import PagedCache
from outrider.engine.target import TargetModel
from outrider.errors import CurveError
from outrider.scheduling import StepCostCurve

__all__ = ["measure_step_curve"]

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MOST_PATIENCE = 5


def measure_step_curve(
    target: TargetModel, *, max_tokens: int, context_tokens: int = 128, passes: int = 5
) -> StepCostCurve:
    """T(B) for B up to `max_tokens` (16 at least); sequences verify up to eight tokens on `context_tokens` of context.

    Sizes are measured in turn, pass after pass, and the least disturbed of the passes counts, so that a neighbour's
    burst distorts no single size. While the result is flat, which a busy host can make of any curve, up to five times
    as many passes are made. Works in memory of its own; raises CurveError when the curve stays flat.
    """
    sizes = [size for size in _SIZES if size <= max(16, max_tokens)]
    context_tokens = min(context_tokens, target.context_tokens - 8)
    block_size = 16
    per_request = -(-(context_tokens + 8) // block_size)
    requests = -(-sizes[-1] // 8)
    cache = target.new_cache(per_request * requests, block_size)
    slots = [cache.slots_of(list(range(i * per_request, (i + 1) * per_request))) for i in range(requests)]
    batches = {size: _batch(size, slots, context_tokens) for size in sizes}
    for batch in batches.values():
        _timed(target, batch, cache)
    best = {size: float("inf") for size in sizes}
    for attempt in range(1, _MOST_PATIENCE * passes + 1):
        for size, batch in batches.items():
            best[size] = min(best[size], _timed(target, batch, cache))
        if attempt >= passes:
            with contextlib.suppress(CurveError):
                return StepCostCurve.measured(list(best.items()))
    return StepCostCurve.measured(list(best.items()))


def _batch(size: int, slots: list[torch.Tensor], start: int) -> FlatBatch:
    """`size` tokens as sequences of eight and one of the rest, each at position `start`."""
    lengths = [8] * (size // 8) + ([size % 8] if size % 8 else [])
    spans = tuple(Span(start, length, slots[i]) for i, length in enumerate(lengths))
    positions = torch.cat([torch.arange(start, start + length) for length in lengths])
    tokens = torch.zeros(size, dtype=torch.int64)
    device = slots[0].device
    return FlatBatch(tokens.to(device), positions.to(device), spans, torch.arange(size, device=device))


def _timed(target: TargetModel, batch: FlatBatch, cache: PagedCache) -> float:
    started = time.perf_counter()
    target.forward(batch, cache)
    if target.device.type == "cuda":
        torch.cuda.synchronize(target.device)
    return time.perf_counter() - started
