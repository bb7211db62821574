"""A drafter on the target's own device: context rows go over in memory, and blocks never leave it.

The host keeps which slot of the drafter's memory a sequence has and how many rows it holds; the device does the rest.
Shapes: D drafted requests, A appended rows, γ block size, w width of q, S token capacity of a slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
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
    """What decides a draft's launches; appended: context rows at most."""

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
                **dict.fromkeys(
                    ("slots", "lanes", "anchors", "carried", "top_k", "seeds", "choices", "rounds"), (i64, each)
                ),
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

    def reserve(self, key: int, held: int, most: int) -> int | None:
        """The slot of a sequence that holds `held` rows, with room for `most` more; None where its context was lost."""
        slot = self._server.seat(self._client, key, held, 0)
        if slot is not None:
            self._pool.reserve(0, held + most)
        return slot

    def count(self, key: int, held: int, rows: int) -> None:
        """Rows that the device appended to a reserved slot, once the host knows how many."""
        self._server.seat(self._client, key, held, rows)

    def draft(self, shape: DraftShape, results: Mapping[str, Tensor]) -> Sampled:
        """Blocks [D, γ] for the staged sequences, on the device; rows they lack are read from the feature plane.

        results: of the round before, from which carried sequences take anchor and position.
        """
        if self._pool.version != self._version:
            self._version = self._pool.version
            self.graphs.forget()
        requests = rounded(shape.requests)
        counts = self.stage.host["counts"]
        appended = shape.appended
        while int(counts[: shape.requests].sum()) > _MOST_APPENDED:
            appended -= self._append_some(shape.requests, counts)
        self.stage.send()
        fitted = replace(shape, requests=requests, appended=rounded(appended) if appended else 0)
        return self.graphs.run(fitted, lambda: self._work(fitted, results))

    def _append_some(self, requests: int, counts: NDArray[np.int32]) -> int:
        """Hand over as many rows as one call takes, of the first sequences that lack known ones; how many."""
        held, left = self.stage.host["held"], counts[:requests].copy()
        taken = (_MOST_APPENDED - (left.cumsum() - left)).clip(0, left)
        counts[:requests] = taken
        self.stage.send()
        self._append(rounded(requests), _MOST_APPENDED, self.stage.device["counts"][: rounded(requests)])
        held_there = self.stage.device["held"]
        if held_there.is_cuda:  # staged numbers may change once they are taken; so long a prompt is rare
            torch.cuda.current_stream(held_there.device).synchronize()
        held[:requests] += taken
        counts[:requests] = left - taken
        return int(taken.sum())

    def _append(self, requests: int, appended: int, counts: Tensor) -> None:
        stage, size = self.stage.device, self._cache.block_size
        assert self._cache.features is not None
        _, owner, place, real = runs(counts, appended)
        positions = torch.where(real, stage["held"][owner] + place, 0).long()
        blocks = self._tables.index_select(0, stage["lanes"][:requests])
        block = blocks[owner, (positions // size).clamp(max=blocks.shape[1] - 1)].long()
        sources = torch.where(real, block * size + positions % size, 0)
        places = torch.where(real, stage["slots"][owner] * self._pool.slot_tokens + positions, -1)
        self._draft.append(self._cache.features.index_select(0, sources), positions, places)

    def _work(self, shape: DraftShape, results: Mapping[str, Tensor]) -> Sampled:
        stage, requests = self.stage.device, shape.requests
        held, carried = stage["held"][:requests], stage["carried"][:requests]
        row = carried.clamp(min=0)
        lengths = torch.where(carried >= 0, results["next"][row], held + stage["counts"][:requests])
        anchors = torch.where(carried >= 0, results["last"][row], stage["anchors"][:requests])
        # one that ended in the round before has no anchor, and rows up to where it ended
        slots = torch.where(anchors >= 0, stage["slots"][:requests], -1)
        if shape.appended:
            self._append(requests, shape.appended, torch.where(slots >= 0, lengths - held, 0).int())
        columns = ("temperature", "top_p", "top_k", "min_p", "seeds", "choices", "rounds")
        rows = DrawRows(
            **{name: stage[name][:requests] for name in columns},
            random=shape.random,
            cuts=shape.cuts,
            rejects=shape.rejects,
        )
        width = SPARSE_DRAFT.width if shape.rejects or shape.cuts else 0
        return self._draft.propose(slots, lengths.int(), anchors.clamp(min=0), lengths.long(), rows, width=width)
