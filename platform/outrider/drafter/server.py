"""The drafter's side of a round: keeps every sequence's context and proposes a block for each that asks.

Shapes: np proposing sequences, R of them ready, γ block size, n new context rows.
"""

from __future__ import annotations

import secrets
import time
from itertools import chain

import torch
from torch import Tensor

from outrider.drafter.dspark import DSparkProposer
from outrider.drafter.model import DSparkModel
from outrider.drafter.proposer import Proposer
from outrider.errors import DrafterMismatch, LinkError
from outrider.link import DraftBlock, DrafterWelcome, DraftRound, TargetHello, check_round
from outrider.speculation import RowSampling, SparseProbs

__all__ = ["DraftServer"]


class DraftServer:
    """Serves the targets of one drafter incarnation. Not thread-safe: one thread at a time calls it.

    Each client has its own sequences: key to slot of the one proposer, which may be any: a DSpark model of any heads is
    wrapped into its own. The confidences of one without a confidence head are a proxy, the chance its distribution
    gives the drafted token (`outrider.drafter.picks.chance_logit`) or, under the rejection rule, would give one.
    """

    def __init__(self, drafter: DSparkModel | Proposer, name: str) -> None:
        self._proposer = DSparkProposer(drafter) if isinstance(drafter, DSparkModel) else drafter
        self._clients: dict[bytes, dict[int, int]] = {}
        self.welcome = DrafterWelcome(
            secrets.randbits(63), self._proposer.block_size, name, row_size=self._proposer.row_size
        )

    @property
    def held_sequences(self) -> int:
        """Sequences whose context is held, over all clients."""
        return self._proposer.held_slots

    def hello(self, hello: TargetHello) -> DrafterWelcome:
        """Accept a target; raises `DrafterMismatch` naming what this drafter was not made for."""
        ours = self._proposer
        facts: list[tuple[str, object, object]] = [("vocabulary size", hello.vocab_size, ours.vocab_size)]
        if ours.row_size:
            facts.append(("hidden size", hello.hidden_size, ours.row_size))
            facts.append(("projection fingerprint", hello.projection_fingerprint, ours.fingerprint))
        for what, theirs, needed in facts:
            if theirs != needed:
                raise DrafterMismatch(
                    f"drafter {self.welcome.name} does not fit {hello.model}: {what} {needed}, not {theirs}"
                )
        return self.welcome

    @torch.inference_mode()
    def handle(self, client: bytes, message: DraftRound) -> DraftBlock:
        """Apply one round. Raises `LinkError`, and changes nothing, when it is malformed."""
        began_s = time.perf_counter()
        if message.epoch != self.welcome.epoch:
            raise LinkError("the round is addressed to another incarnation of the drafter")
        check_round(
            message,
            vocab_size=self._proposer.vocab_size,
            row_size=self._proposer.row_size,
            context_tokens=self._proposer.context_tokens,
        )
        slots = self._clients.setdefault(client, {})
        for key in message.frees:
            self._drop(slots, key)
        self._append(slots, message)
        tokens, confidence_logits, missing, q = self._propose(slots, message)
        drafted = (tokens, confidence_logits, missing, time.perf_counter() - began_s)
        if q is None:
            return DraftBlock(message.epoch, message.round, *drafted)
        return DraftBlock(message.epoch, message.round, *drafted, q.tokens.flatten(1), q.probs.flatten(1))

    def forget_client(self, client: bytes) -> None:
        """Free every sequence of a client; an unknown one is ignored."""
        for slot in self._clients.pop(client, {}).values():
            self._proposer.release(slot)

    def _drop(self, slots: dict[int, int], key: int) -> None:
        slot = slots.pop(key, None)
        if slot is not None:
            self._proposer.release(slot)

    def _slot(self, slots: dict[int, int], key: int) -> int:
        slot = slots.get(key)
        if slot is None:
            slot = slots[key] = self._proposer.acquire()
        return slot

    def _append(self, slots: dict[int, int], message: DraftRound) -> None:
        """Hand over the positions that continue their context, all at once; drop the other contexts."""
        starts, counts = message.append_starts.tolist(), message.append_counts.tolist()
        takers: list[tuple[int, int]] = []
        fits: list[bool] = []
        for key, start, count in zip(message.append_keys.tolist(), starts, counts, strict=True):
            held = self._proposer.length(slots[key]) if key in slots else 0
            fits.append(start in (0, held))
            if start != held:
                self._drop(slots, key)
            if fits[-1]:
                takers.append((self._slot(slots, key), count))
        if not takers:
            return
        rows, tokens = message.rows, message.append_tokens
        runs = [range(start, start + count) for start, count in zip(starts, counts, strict=True)]
        positions = torch.tensor(list(chain(*runs)))
        if not all(fits):
            kept = torch.tensor(fits).repeat_interleave(message.append_counts)
            rows, tokens, positions = rows[kept], tokens[kept], positions[kept]
        self._proposer.append(takers, positions, rows, tokens)

    def _propose(
        self, slots: dict[int, int], message: DraftRound
    ) -> tuple[Tensor, Tensor, tuple[int, ...], SparseProbs | None]:
        """Tokens and confidence logits [np, γ] in the order asked, the keys that are missing, and q [nr, γ, w]."""
        keys = message.propose_keys.tolist()
        ready: list[tuple[int, int]] = []
        missing: list[int] = []
        for row, (key, position) in enumerate(zip(keys, message.positions.tolist(), strict=True)):
            held = self._proposer.length(slots[key]) if key in slots else 0
            if held == position:
                ready.append((self._slot(slots, key), row))
            else:
                self._drop(slots, key)
                missing.append(key)
        shape = (len(keys), self.welcome.block_size)
        tokens = torch.zeros(shape, dtype=torch.int64)
        confidence_logits = torch.full(shape, -torch.inf)
        q = SparseProbs.empty(int((message.rounds >= 0).sum()), shape[1], 1) if len(message.rounds) else None
        if ready:
            ready.sort()  # by slot, so that a pool can answer with a view
            rows = [row for _, row in ready]
            order = slice(None) if rows == list(range(len(keys))) else torch.tensor(rows)
            asked = [slot for slot, _ in ready], message.anchors[order], message.positions[order]
            sampling = _sampling(message, order)
            if sampling.rounds is None:
                drafted, chances = self._proposer.propose(*asked, sampling)
            else:
                drafted, chances, found = self._proposer.propose_mixed(*asked, sampling)
                q = _spread(found, message.rounds, order)
            tokens[order], confidence_logits[order] = drafted.cpu(), chances.float().cpu()
        return tokens, confidence_logits, tuple(missing), q


def _spread(found: SparseProbs, rounds: Tensor, order: Tensor | slice) -> SparseProbs:
    """q of the ready rows, which came by slot, among all rows under the rejection rule as they asked."""
    under = rounds >= 0
    place = (under.cumsum(0) - 1)[order][under[order]]
    q = SparseProbs.empty(int(under.sum()), *found.probs.shape[1:])
    q.tokens[place], q.probs[place] = found.tokens.cpu(), found.probs.cpu()
    return q


def _sampling(message: DraftRound, order: Tensor | slice) -> RowSampling:
    """How the proposals `order` (int64 [R], or all) of a round sample."""
    temperature, top_p = message.temperature[order], message.top_p[order]
    hot = temperature > 0
    random = bool(hot.any())
    return RowSampling(
        temperature,
        top_p,
        message.seeds[order],
        message.choices[order],
        random=random,
        nucleus=random and bool((hot & (top_p < 1)).any()),
        top_k=message.top_k[order] if len(message.top_k) else None,
        min_p=message.min_p[order] if len(message.min_p) else None,
        rounds=_rounds(message.rounds[order]) if len(message.rounds) else None,
    )


def _rounds(rounds: Tensor) -> Tensor | None:
    """None when no row that is left is under the rejection rule."""
    return rounds if bool((rounds >= 0).any()) else None
