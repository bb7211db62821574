"""Measuring a target's step-cost curve where it serves: a profile from another host is wrong here."""

from __future__ import annotations

import time

import torch

from outrider.engine.attention import Span
from outrider.engine.cache import PagedCache
from outrider.engine.target import FlatBatch, TargetModel
from outrider.scheduling import StepCostCurve

__all__ = ["measure_step_curve"]

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def measure_step_curve(
    target: TargetModel, *, max_tokens: int, context_tokens: int = 128, passes: int = 5
) -> StepCostCurve:
    """T(B) for B up to `max_tokens`, every sequence verifying up to eight tokens on `context_tokens` of context.

    Sizes are measured in turn, pass after pass, and the least disturbed of the passes counts, so that a neighbour's
    burst distorts no single size. Works in memory of its own; raises CurveError when the result is flat.
    """
    sizes = [size for size in _SIZES if size <= max(2, max_tokens)]
    context_tokens = min(context_tokens, target.context_tokens - 8)
    block_size = 16
    per_request = -(-(context_tokens + 8) // block_size)
    requests = -(-sizes[-1] // 8)
    cache = target.new_cache(per_request * requests, block_size)
    slots = [cache.slots_of(list(range(i * per_request, (i + 1) * per_request))) for i in range(requests)]
    batches = {size: _batch(size, slots, context_tokens) for size in sizes}
    best = {size: float("inf") for size in sizes}
    for attempt in range(passes + 1):
        for size, batch in batches.items():
            seconds = _timed(target, batch, cache)
            if attempt:
                best[size] = min(best[size], seconds)
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
