"""Measuring what a draft costs the engine: whole round trips on the attached link, by the engine's own side of it."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

import torch

from outrider.engine.cache import PagedCache
from outrider.engine.drafting import Drafting
from outrider.engine.sequence import Sequence
from outrider.errors import CurveError
from outrider.scheduling import CostModel, StepCostCurve
from outrider.speculation import RowSampling
from outrider.types import GenerationRequest, SamplingParams

__all__ = ["measure_draft"]

_CONTEXT_TOKENS = 128
_REQUEST = GenerationRequest("cost-profile", (0,), SamplingParams(1))


def measure_draft(
    costs: CostModel,
    drafting: Drafting,
    cache: PagedCache,
    *,
    max_requests: int,
    context_tokens: int,
    max_s: float = 1.0,
    passes: int = 5,
) -> CostModel:
    """`costs` with T_draft(R) for R up to `max_requests`, what a row to catch up adds, and the transfer's share.

    Sequences of its own, sampled at temperature 1, whose rows are whatever the cache's feature plane holds; the drafter
    forgets them in the end. Numbers of requests take turns and the least disturbed pass counts. After `max_s` no
    further pass begins, nor a larger number in the first one. Raises CurveError without a drafter, when it is lost on
    the way, and when the context has no room for the trips.
    """
    counts = [1 << power for power in range(max(2, max_requests).bit_length())]
    trips = (passes + 1) * (len(counts) + 1)
    context = min(_CONTEXT_TOKENS, context_tokens - trips)
    if context < 1:
        raise CurveError(f"a context of {context_tokens} tokens has no room for {trips} draft rounds")
    probe = _Probe(drafting, cache, counts[-1], context, trips)
    ends = time.perf_counter() + max_s
    best: dict[int, float] = {}
    refill_s = transfer_s = float("inf")
    try:
        for count in counts:
            if len(best) > 1 and time.perf_counter() > ends:
                break
            best[count] = probe.trip(count)  # its new sequences' whole contexts are in it: a warm-up, replaced below
        best = dict.fromkeys(best, float("inf"))
        for _ in range(passes):
            for count in best:
                trip_s = probe.trip(count)
                best[count] = min(best[count], trip_s)
                if count == 1:
                    transfer_s = min(transfer_s, trip_s - drafting.drafter_s)
            refill_s = min(refill_s, probe.refill())
            if time.perf_counter() > ends:
                break
    finally:
        probe.close()
    append_row_s = max(0.0, refill_s - best[1]) / context
    samples = [(count, max(trip_s - count * append_row_s, trip_s / 2)) for count, trip_s in best.items()]
    draft = StepCostCurve.measured(samples, may_be_flat=True)
    return replace(costs, draft=draft, append_row_s=append_row_s, transfer_s=max(0.0, transfer_s))


class _Probe:
    """Sequences that never run: between trips each gains a token, as one that emits nothing else would."""

    def __init__(self, drafting: Drafting, cache: PagedCache, requests: int, context: int, trips: int) -> None:
        self._drafting = drafting
        positions = torch.arange(context + trips, device=cache.block_slots.device)
        slots = positions % cache.block_slots.numel()
        self._sequences = [
            Sequence(_REQUEST, secrets.randbits(62), 0.0, [0] * context, slots=slots, num_computed=context - 1)
            for _ in range(requests)
        ]

    def trip(self, requests: int) -> float:
        """Seconds of a round for the first of the sequences, each of which lacks the one row it gained."""
        chosen = self._sequences[:requests]
        for sequence in chosen:
            sequence.tokens.append(0)
            sequence.num_computed += 1
        count = len(chosen)
        sampling = RowSampling.of([1.0] * count, [1.0] * count, list(range(count)), [0] * count)
        proposals = self._drafting.propose(chosen, sampling)
        if proposals is None:
            raise CurveError("the drafter was lost while its costs were measured")
        return proposals.wait_s

    def refill(self) -> float:
        """Seconds of a round for one request whose whole context is lacking."""
        self._sequences[0].draft_held = 0
        return self.trip(1)

    def close(self) -> None:
        """Let the drafter forget them, if it is still there."""
        for sequence in self._sequences:
            self._drafting.forget(sequence)
        self._drafting.flush()
