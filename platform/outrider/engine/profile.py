"""Measuring what a round's parts cost where they are served: a profile from another host is wrong here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from outrider.engine.attention import Span
from outrider.engine.batch import FlatBatch
from outrider.engine.cache import PagedCache
from outrider.engine.device.profile import DeviceStage
from outrider.engine.target import TargetModel
from outrider.errors import CurveError
from outrider.scheduling import CostModel, CostSubject
from outrider.speculation import CoupledRule, RowSampling

__all__ = ["measure_steps"]

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (64, 256, 1024, 4096)
_VERIFIED = 8
"""Tokens a sequence verifies at most in a measured step."""
_BLOCK_SIZE = 16
_SMALL = 16
_MEMORY_BYTES = {"cpu": 128 << 20, "cuda": 2 << 30}
"""Where sequences of a measured step need more than this together, some read the same context; a GPU's is many times
its cache, or steps would seem cheaper than they are."""
_MOST_PATIENCE = 5


def measure_steps(
    target: TargetModel, *, subject: CostSubject, max_tokens: int, max_s: float = 2.0, passes: int = 5
) -> CostModel:
    """T_verify(B) for B up to `max_tokens` (16 at least), at several contexts; sequences verify up to eight tokens.

    A step is the forward and the choice of a token at every row, at temperature 1.

    Sizes and contexts are measured in turn, pass after pass, and the least disturbed of the passes counts, so that a
    neighbour's burst distorts no single size. After `max_s` no further pass begins, and a first pass goes on to no
    longer context. While the result is flat, which a busy host can make of any curve, up to five times as many passes
    are made. Works in memory of its own; raises CurveError when the curve stays flat.
    """
    sizes = [size for size in _SIZES if size <= max(16, max_tokens)]
    most = target.context_tokens - _VERIFIED
    contexts = [context for context in _CONTEXTS if context <= most] or [most]
    requests = -(-sizes[-1] // _VERIFIED)
    stage = _stage(target, contexts[-1], requests)
    ends = time.perf_counter() + max_s
    best: dict[tuple[int, int], float] = {}
    for context in contexts:
        if best and time.perf_counter() > ends:
            break
        for size in sizes:
            stage.timed(context, size)  # the first of its shape
            best[context, size] = stage.timed(context, size)
    for attempt in range(2, _MOST_PATIENCE * passes + 1):
        if attempt > passes or time.perf_counter() > ends:
            try:
                return _model(best, subject)
            except CurveError:
                if attempt == _MOST_PATIENCE * passes:
                    raise
        for context, size in best:
            best[context, size] = min(best[context, size], stage.timed(context, size))
    return _model(best, subject)


def _model(best: dict[tuple[int, int], float], subject: CostSubject) -> CostModel:
    return CostModel.measured([(context, size, s) for (context, size), s in best.items()], subject=subject)


def _stage(target: TargetModel, context_tokens: int, requests: int) -> _Stage | DeviceStage:
    """Where steps are timed the way they will be run."""
    held = _Stage.of(target, context_tokens, requests)
    if target.device.type != "cuda" or target.paged is None:
        return held
    return DeviceStage.over(
        target.paged,
        held.cache,
        verified=_VERIFIED,
        requests=requests,
        distinct=len(held.slots),
        blocks_each=held.cache.block_slots.shape[0] // len(held.slots),
    )


@dataclass(frozen=True, slots=True)
class _Stage:
    """Memory of its own, with room for as many sequences as fit its budget."""

    target: TargetModel
    cache: PagedCache
    slots: list[torch.Tensor]
    rule: CoupledRule = field(default_factory=CoupledRule)

    @classmethod
    def of(cls, target: TargetModel, context_tokens: int, requests: int) -> _Stage:
        per_request = -(-(context_tokens + _VERIFIED) // _BLOCK_SIZE)
        probe = target.new_cache(1, _BLOCK_SIZE)
        planes = [*probe.kv, *([] if probe.features is None else [probe.features])]
        fitting = _MEMORY_BYTES[target.device.type] // (per_request * sum(plane.nbytes for plane in planes))
        distinct = max(1, min(requests, fitting))
        cache = target.new_cache(per_request * distinct, _BLOCK_SIZE)
        for plane in cache.kv:
            plane.fill_(0.01)  # memory never written is one page of zeros, which no cache line is spent on
        slots = [cache.slots_of(list(range(i * per_request, (i + 1) * per_request))) for i in range(distinct)]
        return cls(target, cache, slots)

    def timed(self, context: int, size: int) -> float:
        """Seconds of a step of `size` tokens, in sequences of eight and one of the rest, each at `context`.

        A small step is run twice: serving repeats it, with weights in the caches that a large one before it evicts.
        """
        batch = self._batch(context, size)
        sampling = RowSampling.of([1.0] * size, [1.0] * size, list(range(size)), [0] * size)
        return min(self._timed(batch, sampling) for _ in range(2 if size <= _SMALL else 1))

    def _timed(self, batch: FlatBatch, sampling: RowSampling) -> float:
        started = time.perf_counter()
        logits = self.target.forward(batch, self.cache)
        assert logits is not None
        self.rule.choose(logits, sampling.to(logits.device), batch.positions)
        return time.perf_counter() - started

    def _batch(self, start: int, size: int) -> FlatBatch:
        lengths = [_VERIFIED] * (size // _VERIFIED) + ([size % _VERIFIED] if size % _VERIFIED else [])
        spans = tuple(Span(start, length, self.slots[i % len(self.slots)]) for i, length in enumerate(lengths))
        positions = torch.cat([torch.arange(start, start + length) for length in lengths])
        device = self.target.device
        tokens = torch.zeros(size, dtype=torch.int64, device=device)
        return FlatBatch(tokens, positions.to(device), spans, torch.arange(size, device=device))
