"""The engine's side of the draft link: which rows the drafter lacks, what it proposes, what to do when it is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.engine.cache import PagedCache
from outrider.engine.observing import Observer
from outrider.engine.sequence import Sequence
from outrider.errors import LinkError
from outrider.link import DraftBlock, DraftLink, DraftRound
from outrider.speculation import RowSampling, SparseProbs

__all__ = ["NO_PLACE", "DraftedProbs", "Drafting", "Proposals"]

NO_PLACE = -1
"""In place of a row of q: nothing was drafted there, or nothing that counts."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DraftedProbs:
    """What a round's blocks were drawn from, q [nr·γ, w], and the first row of each sequence's, by key."""

    q: SparseProbs
    first: dict[int, int]

    def at(self, places: Tensor) -> SparseProbs:
        """q [n, w] of the given rows, int64 [n]; no mass at `NO_PLACE`."""
        found = self.q.tokens[places], self.q.probs[places].masked_fill((places == NO_PLACE)[:, None], 0.0)
        return SparseProbs(*found)


@dataclass(frozen=True, slots=True)
class Proposals:
    """Blocks for R sequences: tokens per sequence (at most γ), prefix survival a_j float64 [R, γ], seconds waited.

    A block ends where its survival is zero: some drafters propose less than γ, or nothing. logits: the confidences that
    survival was made of, fp32 [R, γ]. q: of the blocks under the rejection rule, None without such.
    """

    tokens: list[list[int]]
    survival: NDArray[np.float64]
    wait_s: float
    logits: NDArray[np.float32]
    q: DraftedProbs | None = None


class Drafting:
    """Owns the link. Without one, or after a LinkError, every method is a no-op and rounds run at depth 0.

    Appends are keyed by sequence and committed length, so nothing ever rolls back: rows the drafter lacks are read
    from the cache's feature plane, whether it lags one round or starts anew after a restart.
    """

    def __init__(self, cache: PagedCache, timeout_s: float, observer: Observer) -> None:
        self._cache = cache
        self.observer = observer
        self._timeout_s = timeout_s
        self._link: DraftLink | None = None
        self._round = 0
        self._frees: list[int] = []
        self.lost = 0
        self.asked_requests = self.caught_up_rows = 0
        """Requests the last round proposed for, and the context rows it carried."""
        self.drafter_s = 0.0
        """What the drafter spent on the last round, by its own clock."""

    @property
    def ready(self) -> bool:
        """Whether a drafter is attached."""
        return self._link is not None

    @property
    def link(self) -> DraftLink | None:
        """The attached drafter's."""
        return self._link

    def take_frees(self) -> list[int]:
        """Keys of ended sequences, for whoever tells the drafter in place of a round over the link."""
        frees, self._frees = self._frees, []
        return frees

    def note(self, requests: int, draft_s: float) -> None:
        """A round was drafted beside the link, for so many requests, in so many seconds."""
        self.asked_requests, self.drafter_s = requests, draft_s

    @property
    def block_size(self) -> int:
        """γ of the attached drafter, 0 without one."""
        return self._link.welcome.block_size if self._link else 0

    def attach(self, link: DraftLink, sequences: Seq[Sequence]) -> None:
        """Use `link` from the next round on; it is refilled from nothing."""
        self.detach()
        self._link = link
        self.observer.follow(link.welcome.name, link.welcome.block_size)
        self._frees.clear()
        for sequence in sequences:
            sequence.draft_held = 0

    def detach(self) -> None:
        """Let the drafter go, if there is one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def forget(self, sequence: Sequence) -> None:
        """Tell the drafter, with the next round, that a sequence has ended."""
        if self._link is not None and sequence.draft_held > 0:
            self._frees.append(sequence.key)

    def flush(self) -> None:
        """Send pending farewells now: called when no round is going to carry them."""
        if self._link is not None and self._frees:
            self._exchange([], RowSampling.of([], [], [], []))

    def propose(self, sequences: Seq[Sequence], sampling: RowSampling) -> Proposals | None:
        """Blocks for the decoding sequences, or None when there is no drafter (any more) or nothing to propose."""
        if self._link is None or not sequences:
            return None
        started = time.perf_counter()
        block = self._exchange(sequences, sampling)
        if block is None:
            return None
        logits = block.confidence_logits.numpy()
        rejecting = [row for row, sequence in enumerate(sequences) if sequence.rejects]
        survival = self.observer.survival(logits, sampling.temperature.numpy(), rejecting)
        for row, sequence in enumerate(sequences if block.missing else ()):
            if sequence.key in block.missing:
                sequence.draft_held = 0
                survival[row] = 0.0
        proposed = np.count_nonzero(survival, axis=1).tolist()
        tokens = [row[:count] for row, count in zip(block.tokens.tolist(), proposed, strict=True)]
        q = _probs(block, [sequences[row].key for row in rejecting]) if rejecting else None
        return Proposals(tokens, survival, time.perf_counter() - started, logits, q)

    def _exchange(self, sequences: Seq[Sequence], sampling: RowSampling) -> DraftBlock | None:
        """One message out, one back; a broken link is dropped and logged once."""
        link = self._link
        if link is None:
            return None
        self._round += 1
        message = self._message(link, sequences, sampling)
        for sequence in sequences:
            sequence.draws += sequence.rejects  # drawn even if it never arrives
        try:
            link.send(message)
            block = link.receive(self._timeout_s)
        except LinkError as error:
            self.lost += 1
            _log.warning("drafter lost, going on at depth 0: %s", error.message)
            self.detach()
            return None
        self.asked_requests, self.caught_up_rows = len(sequences), len(message.append_tokens)
        self.drafter_s = block.draft_s
        self._frees.clear()
        for sequence in sequences:
            sequence.draft_held = sequence.num_computed
        return block

    def _message(self, link: DraftLink, sequences: Seq[Sequence], sampling: RowSampling) -> DraftRound:
        lagging = [s for s in sequences if s.draft_held < s.num_computed]
        counts = [s.num_computed - s.draft_held for s in lagging]
        tokens = [token for s in lagging for token in s.tokens[s.draft_held : s.num_computed]]
        features = self._cache.features
        if link.welcome.row_size and lagging and features is not None:
            slots = [s.slots[s.draft_held : s.num_computed] for s in lagging]
            rows = features.index_select(0, slots[0] if len(slots) == 1 else torch.cat(slots)).float().cpu()
        else:
            rows = torch.empty(len(tokens), 0)
        keys, starts, sizes, appended, asking, anchors, positions = _columns(
            [s.key for s in lagging],
            [s.draft_held for s in lagging],
            counts,
            tokens,
            [s.key for s in sequences],
            [s.tokens[-1] for s in sequences],
            [len(s.tokens) - 1 for s in sequences],
        )
        return DraftRound(
            epoch=link.welcome.epoch,
            round=self._round,
            frees=tuple(self._frees),
            append_keys=keys,
            append_starts=starts,
            append_counts=sizes,
            rows=rows,
            append_tokens=appended,
            propose_keys=asking,
            anchors=anchors,
            positions=positions,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seeds=sampling.seeds,
            choices=sampling.choices,
            top_k=torch.empty(0, dtype=torch.int64) if sampling.top_k is None else sampling.top_k,
            min_p=torch.empty(0) if sampling.min_p is None else sampling.min_p,
            rounds=_rounds(sequences),
        )


def _columns(*columns: list[int]) -> tuple[Tensor, ...]:
    """The columns as int64 tensors of one memory: making a tensor costs more than all that is in it."""
    joined = torch.tensor(list(chain(*columns)), dtype=torch.int64)
    return torch.split(joined, [len(column) for column in columns])


def _rounds(sequences: Seq[Sequence]) -> Tensor:
    rounds = [sequence.draws if sequence.rejects else -1 for sequence in sequences]
    return torch.tensor(rounds if any(number >= 0 for number in rounds) else [], dtype=torch.int64)


def _probs(block: DraftBlock, keys: list[int]) -> DraftedProbs:
    """keys: of the sequences under the rejection rule, in the order they were asked for."""
    gamma = block.tokens.shape[1]
    q = SparseProbs(block.q_tokens.view(len(keys) * gamma, -1), block.q_probs.view(len(keys) * gamma, -1))
    return DraftedProbs(q, {key: row * gamma for row, key in enumerate(keys)})
