"""A drafter on the target's own device: context rows go over in memory, and blocks never leave it.

The host keeps which slot of the drafter's memory a sequence has and how many rows it holds; the device does the rest.
Shapes: D drafted requests, A appended rows, γ block size, w width of q, S token capacity of a slot.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.drafter.contexts import ContextPool
from outrider.drafter.device import DeviceDraft
from outrider.drafter.dspark import DSparkProposer
from outrider.drafter.server import DraftServer
from outrider.engine.cache import PagedCache
from outrider.engine.device.graphs import Graphs
from outrider.engine.device.layout import runs
from outrider.engine.device.stage import Stage
from outrider.engine.device.step import rounded
from outrider.link import DraftLink, InProcessLink
from outrider.speculation import SPARSE_DRAFT
from outrider_kernels.draft_sampling import DrawRows, Sampled

__all__ = ["Colocated", "DraftShape"]

_MOST_APPENDED = 1024
"""Rows handed over in one call; a long prompt's take several."""


@dataclass(frozen=True, slots=True)
class DraftShape:
    """What decides a draft's launches."""

    requests: int
    appended: int
    random: bool
    cuts: bool
    rejects: bool


class Colocated:
    """A drafter's memory and buffers beside a target's; made anew for each drafter that is attached."""

    def __init__(
        self,
        server: DraftServer,
        client: bytes,
        pool: ContextPool,
        draft: DeviceDraft,
        cache: PagedCache,
        tables: Tensor,
        requests: int,
    ) -> None:
        self._server, self._client, self._pool, self._draft = server, client, pool, draft
        self._cache, self._tables = cache, tables
        self.gamma = server.welcome.block_size
        requests = rounded(requests)
        i32, i64, f32 = torch.int32, torch.int64, torch.float32
        each = (requests,)
        self.stage = Stage(
            {
                **dict.fromkeys(("held", "counts"), (i32, each)),
                **dict.fromkeys(("slots", "lanes", "anchors", "top_k", "seeds", "choices", "rounds"), (i64, each)),
                **dict.fromkeys(("temperature", "top_p", "min_p"), (f32, each)),
            },
            tables.device,
        )
        self.graphs = Graphs(tables.device)
        self._version = pool.version

    @staticmethod
    def over(link: DraftLink | None, cache: PagedCache, tables: Tensor, requests: int) -> Colocated | None:
        """Where the link's drafter lives on the target's device and reads its feature plane; None elsewhere."""
        if not isinstance(link, InProcessLink) or not isinstance(link.handler, DraftServer) or cache.features is None:
            return None
        pool = link.handler.proposer
        if not isinstance(pool, DSparkProposer) or pool.device is None or pool.keys.device != tables.device:
            return None
        return Colocated(link.handler, link.client, pool, pool.device, cache, tables, requests)

    def free(self, keys: Seq[int]) -> None:
        """Forget ended sequences."""
        self._server.release(self._client, keys)

    def seat(self, key: int, held: int, count: int) -> int | None:
        """The slot of a sequence that holds `held` rows and gets `count` more; None where its context was lost."""
        return self._server.seat(self._client, key, held, count)

    def draft(self, shape: DraftShape) -> Sampled:
        """Blocks [D, γ] for the staged sequences, on the device; rows they lack are read from the feature plane."""
        if self._pool.version != self._version:
            self._version = self._pool.version
            self.graphs.forget()
        counts = self.stage.host["counts"]
        requests = rounded(shape.requests)
        appended = rounded(shape.appended) if shape.appended else 0
        self.stage.send()
        while appended > _MOST_APPENDED:
            self._append_some(shape.requests)
            left = int(counts[: shape.requests].sum())
            appended = rounded(left) if left else 0
        fitted = DraftShape(requests, appended, shape.random, shape.cuts, shape.rejects)
        return self.graphs.run(fitted, lambda: self._work(fitted))

    def _append_some(self, requests: int) -> None:
        """Hand over as many rows as one call takes, of the first sequences that lack any, and stage what is left."""
        held, counts = self.stage.host["held"], self.stage.host["counts"]
        left = counts[:requests].copy()
        taken = (_MOST_APPENDED - (left.cumsum() - left)).clip(0, left)
        counts[:requests] = taken
        self.stage.send()
        self._append(rounded(requests), _MOST_APPENDED)
        self._wait_for_stage()
        held[:requests] += taken
        counts[:requests] = left - taken
        self.stage.send()

    def _wait_for_stage(self) -> None:
        """Staged numbers may change only once the device has taken them; a long prompt is rare enough to wait."""
        if self.stage.device["held"].is_cuda:
            torch.cuda.current_stream(self.stage.device["held"].device).synchronize()

    def _append(self, requests: int, appended: int) -> None:
        stage, size = self.stage.device, self._cache.block_size
        assert self._cache.features is not None
        _, owner, place, real = runs(stage["counts"][:requests], appended)
        positions = torch.where(real, stage["held"][owner] + place, 0).long()
        blocks = self._tables.index_select(0, stage["lanes"][:requests])
        block = blocks[owner, (positions // size).clamp(max=blocks.shape[1] - 1)].long()
        sources = torch.where(real, block * size + positions % size, 0)
        places = torch.where(real, stage["slots"][owner] * self._pool.slot_tokens + positions, -1)
        self._draft.append(self._cache.features.index_select(0, sources), positions, places)

    def _work(self, shape: DraftShape) -> Sampled:
        stage, requests = self.stage.device, shape.requests
        if shape.appended:
            self._append(requests, shape.appended)
        lengths = (stage["held"] + stage["counts"])[:requests]
        columns = ("temperature", "top_p", "top_k", "min_p", "seeds", "choices", "rounds")
        rows = DrawRows(
            **{name: stage[name][:requests] for name in columns},
            random=shape.random,
            cuts=shape.cuts,
            rejects=shape.rejects,
        )
        return self._draft.propose(
            stage["slots"][:requests],
            lengths,
            stage["anchors"][:requests],
            lengths.long(),
            rows,
            width=SPARSE_DRAFT.width if shape.rejects or shape.cuts else 0,
        )
