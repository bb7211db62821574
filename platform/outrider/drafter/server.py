"""The drafter's side of a round: keeps every sequence's context and proposes a block for each that asks.

Shapes: np proposing sequences, R of them ready, γ block size, n new context rows.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor

from outrider.drafter.contexts import ContextPool
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
    def proposer(self) -> Proposer:
        """What proposes, and keeps the contexts."""
        return self._proposer

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
    def handle(self, client: bytes, message: DraftRound, *, trusted: bool = False) -> DraftBlock:
        """Apply one round. Raises `LinkError`, and changes nothing, when one that is not `trusted` is malformed."""
        began_s = time.perf_counter()
        if message.epoch != self.welcome.epoch:
            raise LinkError("the round is addressed to another incarnation of the drafter")
        if not trusted:
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

    # for a target that shares the drafter's device: the books alone, the tensors stay where they are

    def release(self, client: bytes, keys: Iterable[int]) -> None:
        """Forget ended sequences of a client; unknown ones are ignored."""
        slots = self._clients.setdefault(client, {})
        for key in keys:
            self._drop(slots, key)

    def seat(self, client: bytes, key: int, held: int, count: int) -> int | None:
        """The slot that a sequence's next `count` rows go to, which counts them in; it must hold `held` until now.

        None, and its context is dropped, where it holds another number: its rows must come again from 0.
        """
        slots, pool = self._clients.setdefault(client, {}), self._proposer
        if (pool.length(slots[key]) if key in slots else 0) != held:
            self._drop(slots, key)
            if held:
                return None
        slot = self._slot(slots, key)
        if count and isinstance(pool, ContextPool):
            pool.grow([(slot, count)])
        return slot

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
        under = int((message.rounds >= 0).sum()) if len(message.rounds) else 0
        q = SparseProbs.empty(under, self.welcome.block_size, 1) if len(message.rounds) else None
        ready.sort()  # by slot, so that a pool can answer with a view
        rows = [row for _, row in ready]
        whole = rows == list(range(len(keys)))
        order = None if whole else torch.tensor(rows, dtype=torch.int64)
        if ready:
            asked = [slot for slot, _ in ready]
            anchors, positions = _taken(message.anchors, order), _taken(message.positions, order)
            sampling = _sampling(message, order)
            if sampling.rounds is None:
                drafted, scores = self._proposer.propose(asked, anchors, positions, sampling)
            else:
                drafted, scores, probs = self._proposer.propose_mixed(asked, anchors, positions, sampling)
                q = _spread(probs, message.rounds, order)
            found, chances = drafted.cpu(), scores.float().cpu()
            if whole:
                return found, chances, (), q
        shape = (len(keys), self.welcome.block_size)
        tokens = torch.zeros(shape, dtype=torch.int64)
        confidence_logits = torch.full(shape, -torch.inf)
        if ready:
            tokens[order], confidence_logits[order] = found, chances
        return tokens, confidence_logits, tuple(missing), q


def _spread(found: SparseProbs, rounds: Tensor, order: Tensor | None) -> SparseProbs:
    """q of the ready rows, which came by slot, among all rows under the rejection rule as they asked."""
    under = rounds >= 0
    place = _taken(under.cumsum(0) - 1, order)[_taken(under, order)]
    q = SparseProbs.empty(int(under.sum()), *found.probs.shape[1:])
    q.tokens[place], q.probs[place] = found.tokens.cpu(), found.probs.cpu()
    return q


def _taken(column: Tensor, order: Tensor | None) -> Tensor:
    """A column's rows `order`, None for all."""
    return column if order is None else column[order]


def _sampling(message: DraftRound, order: Tensor | None) -> RowSampling:
    """How the proposals `order` (int64 [R], None for all) of a round sample."""
    temperature, top_p = _taken(message.temperature, order), _taken(message.top_p, order)
    temperatures = temperature.tolist()
    random = any(t > 0 for t in temperatures)
    return RowSampling(
        temperature,
        top_p,
        _taken(message.seeds, order),
        _taken(message.choices, order),
        random=random,
        nucleus=random and any(t > 0 and p < 1 for t, p in zip(temperatures, top_p.tolist(), strict=True)),
        top_k=_taken(message.top_k, order) if len(message.top_k) else None,
        min_p=_taken(message.min_p, order) if len(message.min_p) else None,
        rounds=_rounds(_taken(message.rounds, order)) if len(message.rounds) else None,
    )


def _rounds(rounds: Tensor) -> Tensor | None:
    """None when no row that is left is under the rejection rule."""
    return rounds if bool((rounds >= 0).any()) else None
