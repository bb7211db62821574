"""The target's part of a round on the device: depths in, accepted tokens out, one call that may be replayed.

Shapes: R requests, B flat tokens, N logit rows, γ block size, w width of q: all rounded up to a few sizes, so that few
graphs serve every round.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from outrider.engine.cache import PagedCache
from outrider.engine.device.graphs import Graphs
from outrider.engine.device.layout import DeviceBatch, Drafts, Members, Sampling, flat_batch, verify_rows
from outrider.engine.device.stage import Stage
from outrider_kernels.verification import verify

__all__ = ["Depths", "DeviceStep", "StepShape", "rounded"]

_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)

Forward = Callable[[DeviceBatch, PagedCache], Tensor]
Depths = Callable[[Tensor], Drafts]
"""Blocks, and their depths within the caps int32 [R] of requests."""


def rounded(size: int) -> int:
    """The next larger size that graphs are made for; multiples of 1,024 beyond the list."""
    place = bisect_left(_SIZES, size)
    return _SIZES[place] if place < len(_SIZES) else -(-size // 1024) * 1024


@dataclass(frozen=True, slots=True)
class StepShape:
    """What decides a step's launches: sizes, the longest run of one request's tokens, and what its rows ask for."""

    requests: int
    tokens: int
    rows: int
    longest: int
    random: bool
    cuts: bool
    rejects: bool

    def rounded(self) -> StepShape:
        """The shape of the graph that serves it."""
        longest = 1 << (self.longest - 1).bit_length()
        rows = rounded(self.rows) if self.rows else 0
        return replace(self, requests=rounded(self.requests), tokens=rounded(self.tokens), rows=rows, longest=longest)


class DeviceStep:
    """Owns the buffers that a step reads and writes, sized for `requests` requests and `tokens` tokens.

    `stage` holds what the host says of a round, `results` what it learns: depths, accepted, last and next (the context
    of a round that follows) by request, blocks and confidences by drafted request.

    A round may be launched before the host knows what came of the one before. Rows that are `carried`, from a row of
    that round or −1, take their anchor and context from its results, on the device. Their depth then ends with their
    `limit` (prompt and output at their longest) and `room` (positions they have memory for); who has none left, or has
    ended, computes nothing.
    """

    def __init__(
        self, forward: Forward, cache: PagedCache, *, requests: int, tokens: int, gamma: int, tables: Tensor
    ) -> None:
        device = tables.device
        requests, tokens = rounded(requests), rounded(tokens)
        self._forward, self._cache, self._tables = forward, cache, tables
        self.gamma = gamma
        i32, i64, f32 = torch.int32, torch.int64, torch.float32
        each = (requests,)
        self.stage = Stage(
            {
                "tokens": (i64, (tokens,)),
                **dict.fromkeys(("context", "fixed", "told", "caps", "whole", "limit", "room"), (i32, each)),
                **dict.fromkeys(("offset", "drafted", "lane", "classes", "carried"), (i64, each)),
                **dict.fromkeys(("top_k", "seeds", "choices", "rounds"), (i64, each)),
                **dict.fromkeys(("temperature", "top_p", "min_p", "weights"), (f32, each)),
                "allowed": (i32, (1,)),
                "blocks": (i64, (requests, gamma)),
            },
            device,
        )
        self.results = Stage(
            {
                **dict.fromkeys(("depths", "accepted", "next"), (i32, each)),
                "last": (i64, each),
                "blocks": (i64, (requests, gamma)),
                "confidence": (f32, (requests, gamma)),
            },
            device,
        )
        self.graphs = Graphs(device)
        self.device = device
        self._q: dict[int, tuple[Tensor, Tensor]] = {}

    def q_memory(self, width: int) -> tuple[Tensor, Tensor]:
        """Where q of blocks that the host holds goes: tokens int64 and probabilities fp32 [R, γ, width]."""
        if width not in self._q:
            shape = (*self.stage.device["blocks"].shape, width)
            zeros = torch.zeros(shape, dtype=torch.int64, device=self.device), torch.zeros(shape, device=self.device)
            self._q[width] = zeros
        return self._q[width]

    def told_depths(self, width: int = 0) -> Depths:
        """Blocks and depths as the host staged them, with q of the given width from `q_memory`, 0 without."""
        stage, q = self.stage.device, self.q_memory(width) if width else ()
        return lambda caps: Drafts(stage["blocks"], caps, *q)

    def run(self, shape: StepShape, depths: Depths, *, key: str = "told", capture: bool = True) -> None:
        """Compute a staged round and leave what came of it in `results`; nothing waits. key: what `depths` is."""
        fitted = shape.rounded()
        if not capture:
            self._work(fitted, depths)
        else:
            self.graphs.run((key, fitted), lambda: self._work(fitted, depths))

    def _work(self, shape: StepShape, depths: Depths) -> None:
        requests, stage, results = shape.requests, self.stage.device, self.results.device
        members, caps = self._members(requests)
        drafts = depths(caps)
        batch, lengths = flat_batch(
            members,
            drafts,
            self._tables.index_select(0, members.lane),
            tokens=shape.tokens,
            block_size=self._cache.block_size,
            longest_query=shape.longest,
        )
        sampled = ("temperature", "top_p", "top_k", "min_p", "seeds", "choices", "rounds")
        sampling = Sampling(**{name: stage[name][:requests] for name in sampled})
        logit_rows, rows, drafted, starts = verify_rows(members, drafts, batch, lengths, sampling, rows=shape.rows)
        logits = self._forward(replace(batch, logit_rows=logit_rows), self._cache)
        results["depths"][:requests] = drafts.depths
        after = members.context + members.fixed
        if not shape.rows:
            results["next"][:requests] = after
            return
        found = verify(logits, rows, drafted, starts, random=shape.random, cuts=shape.cuts, rejects=shape.rejects)
        results["accepted"][:requests] = found.accepted
        results["last"][:requests] = found.last
        results["next"][:requests] = after + found.accepted

    def _members(self, requests: int) -> tuple[Members, Tensor]:
        """Who takes part, and how deep each may draft, int32 [R]."""
        stage, results = self.stage.device, self.results.device
        each = {name: stage[name][:requests] for name in ("offset", "drafted", "lane")}
        carried, fixed, told = (stage[name][:requests] for name in ("carried", "fixed", "told"))
        row = carried.clamp(min=0)
        context = torch.where(carried >= 0, results["next"][row], stage["context"][:requests])
        first = torch.where(carried >= 0, results["last"][row], stage["tokens"][each["offset"]])
        limit, room = stage["limit"][:requests], stage["room"][:requests]
        # who was not chosen for in the round before has no anchor
        alive = (carried < 0) | ((context + 1 < limit) & (context < room) & (first >= 0))
        left = torch.minimum(limit - 2, room - 1) - context
        caps = torch.where(alive, torch.minimum(stage["caps"][:requests], left).clamp(min=0), 0)
        fixed, told = torch.where(alive, fixed, 0), torch.where(alive, told, 0)
        return Members(tokens=stage["tokens"], first=first, context=context, fixed=fixed, told=told, **each), caps

    def fetch(self) -> Any:
        """Send the results to the host without waiting; what to wait for before they are read."""
        self.results.fetch()
        if self.device.type != "cuda":
            return None
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self.device))
        return done

    def wait(self) -> None:
        """Bring the results to the host, and wait for them."""
        done = self.fetch()
        if done is not None:
            done.synchronize()
