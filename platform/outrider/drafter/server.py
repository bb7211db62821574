"""The drafter's side of a round: keeps every sequence's context and proposes a block for each that asks.

Shapes: R proposing sequences, γ block size, d hidden size, V vocabulary, n new context rows. Slots k are
0-based here: slot k of an anchor at position s stands at s+k and chooses the token for position s+k+1
(arXiv 2607.05147).
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outrider.drafter.contexts import ContextPool
from outrider.drafter.projection import projection_fingerprint
from outrider.errors import DrafterMismatch, LinkError
from outrider.link import DraftBlock, DrafterWelcome, DraftRound, TargetHello, check_round
from outrider.speculation import RowSampling, race, race_noise

if TYPE_CHECKING:
    from outrider.drafter.model import DSparkModel

__all__ = ["DraftServer"]


class DraftServer:
    """Serves the targets of one drafter incarnation. Not thread-safe: one thread at a time calls it.

    Each client has its own sequences: key to slot in one shared pool of contexts. Raises `DrafterMismatch`
    when the drafter has no confidence head.
    """

    def __init__(self, model: DSparkModel, name: str) -> None:
        config, weight = model.config, model.fc.weight
        if not config.enable_confidence_head:
            raise DrafterMismatch(f"drafter {name} has no confidence head", param="enable_confidence_head")
        self._model = model
        self._device = weight.device
        self._dtype = weight.dtype
        self._fingerprint = projection_fingerprint(weight, model.hidden_norm.weight)
        self._pool = ContextPool(
            config.num_hidden_layers,
            config.num_key_value_heads,
            config.head_dim,
            device=self._device,
            dtype=self._dtype,
        )
        self._clients: dict[bytes, dict[int, int]] = {}
        self.welcome = DrafterWelcome(secrets.randbits(63), config.block_size, name)

    @property
    def held_sequences(self) -> int:
        """Sequences whose context is held, over all clients."""
        return self._pool.held_slots

    def hello(self, hello: TargetHello) -> DrafterWelcome:
        """Accept a target; raises `DrafterMismatch` naming what this drafter was not made for."""
        config = self._model.config
        for what, theirs, ours in (
            ("vocabulary size", hello.vocab_size, config.vocab_size),
            ("hidden size", hello.hidden_size, config.hidden_size),
            ("projection fingerprint", hello.projection_fingerprint, self._fingerprint),
        ):
            if theirs != ours:
                raise DrafterMismatch(
                    f"drafter {self.welcome.name} does not fit {hello.model}: {what} {ours}, not {theirs}"
                )
        return self.welcome

    @torch.inference_mode()
    def handle(self, client: bytes, message: DraftRound) -> DraftBlock:
        """Apply one round. Raises `LinkError`, and changes nothing, when it is malformed."""
        began_s = time.perf_counter()
        config = self._model.config
        if message.epoch != self.welcome.epoch:
            raise LinkError("the round is addressed to another incarnation of the drafter")
        check_round(
            message,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            context_tokens=config.max_position_embeddings,
        )
        slots = self._clients.setdefault(client, {})
        for key in message.frees:
            self._drop(slots, key)
        self._append(slots, message)
        tokens, confidence_logits, missing = self._propose(slots, message)
        return DraftBlock(
            message.epoch, message.round, tokens, confidence_logits, missing, time.perf_counter() - began_s
        )

    def forget_client(self, client: bytes) -> None:
        """Free every sequence of a client; an unknown one is ignored."""
        for slot in self._clients.pop(client, {}).values():
            self._pool.release(slot)

    def _drop(self, slots: dict[int, int], key: int) -> None:
        slot = slots.pop(key, None)
        if slot is not None:
            self._pool.release(slot)

    def _slot(self, slots: dict[int, int], key: int) -> int:
        slot = slots.get(key)
        if slot is None:
            slot = slots[key] = self._pool.acquire()
        return slot

    def _append(self, slots: dict[int, int], message: DraftRound) -> None:
        """Store the rows that continue their context, all in one projection; drop the other contexts."""
        counts = message.append_counts.tolist()
        takers: list[tuple[int, int]] = []
        fits: list[bool] = []
        for key, start, count in zip(message.append_keys.tolist(), message.append_starts.tolist(), counts, strict=True):
            held = self._pool.length(slots[key]) if key in slots else 0
            fits.append(start in (0, held))
            if start != held:
                self._drop(slots, key)
            if fits[-1]:
                takers.append((self._slot(slots, key), count))
        if not takers:
            return
        rows, positions = message.rows, _row_positions(message.append_starts, message.append_counts)
        if not all(fits):
            kept = torch.tensor(fits).repeat_interleave(message.append_counts)
            rows, positions = rows[kept], positions[kept]
        positions = positions.to(self._device)
        keys, values = self._model.context_kv(rows.to(self._device, self._dtype), positions)
        self._pool.append(takers, positions, keys, values)

    def _propose(self, slots: dict[int, int], message: DraftRound) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Tokens and confidence logits [np, γ] in the order asked, and the keys that are missing."""
        keys = message.propose_keys.tolist()
        ready: list[tuple[int, int]] = []
        missing: list[int] = []
        for row, (key, position) in enumerate(zip(keys, message.positions.tolist(), strict=True)):
            held = self._pool.length(slots[key]) if key in slots else 0
            if held == position:
                ready.append((self._slot(slots, key), row))
            else:
                self._drop(slots, key)
                missing.append(key)
        shape = (len(keys), self.welcome.block_size)
        tokens = torch.zeros(shape, dtype=torch.int64)
        confidence_logits = torch.full(shape, -torch.inf)
        if ready:
            ready.sort()  # by slot, so that the pool can answer with a view
            order = torch.tensor([row for _, row in ready])
            drafted = self._draft([slot for slot, _ in ready], order, message)
            tokens[order], confidence_logits[order] = drafted[0].cpu(), drafted[1].float().cpu()
        return tokens, confidence_logits, tuple(missing)

    def _draft(self, slots: list[int], order: Tensor, message: DraftRound) -> tuple[Tensor, Tensor]:
        """Token ids and confidence logits [R, γ] for proposals `order` [R], with contexts in `slots`."""
        model, gamma = self._model, self.welcome.block_size
        integers = torch.stack((message.anchors, message.positions, message.seeds, message.choices))[:, order]
        anchors, positions, seeds, choices = integers.to(self._device).unbind()
        sampling = _sampling(message.temperature[order], message.top_p[order], seeds, choices)
        block_ids = anchors.new_full((len(slots), gamma), model.config.mask_token_id)
        block_ids[:, 0] = anchors
        block_positions = positions[:, None] + torch.arange(gamma, device=self._device)
        # Slots past the last position are never verified, but their rotation must exist.
        reachable = block_positions.clamp(max=model.config.max_position_embeddings - 1)
        hidden = model.backbone(block_ids, reachable, *self._pool.view(slots))
        base = model.base_logits(hidden)
        noise = _noise(sampling, block_positions + 1, base.shape[-1])
        previous, tokens, embeddings = anchors, [], []
        for k in range(gamma):
            bias, embedding = model.markov_bias(previous)
            previous = race(base[:, k] + bias, sampling, None if noise is None else noise[:, k])
            tokens.append(previous)
            embeddings.append(embedding)
        # Slot k's confidence depends on x_{k-1} only, so one call after the loop sees nothing of x_k.
        confidence_logits = model.confidence_logit(hidden.flatten(0, 1), torch.stack(embeddings, 1).flatten(0, 1))
        return torch.stack(tokens, 1), confidence_logits.view(len(slots), gamma).nan_to_num(nan=-torch.inf)


def _row_positions(starts: Tensor, counts: Tensor) -> Tensor:
    """Positions int64 [n] of appended rows: start…start+count-1 of each append in turn."""
    before = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) + (starts - before).repeat_interleave(counts)


def _sampling(temperature: Tensor, top_p: Tensor, seeds: Tensor, choices: Tensor) -> RowSampling:
    """How R proposals sample; all columns [R], seeds and choices already on the drafter's device."""
    hot = temperature > 0
    return RowSampling(
        temperature.to(seeds.device),
        top_p.to(seeds.device),
        seeds,
        choices,
        random=bool(hot.any()),
        nucleus=bool((hot & (top_p < 1)).any()),
    )


def _noise(sampling: RowSampling, positions: Tensor, vocab: int) -> Tensor | None:
    """Race noise [R, γ, V] for the tokens to stand at positions [R, γ]; None when all is greedy."""
    if not sampling.random:
        return None
    gamma = positions.shape[1]
    seeds, choices = sampling.seeds.repeat_interleave(gamma), sampling.choices.repeat_interleave(gamma)
    return race_noise(seeds, choices, positions.flatten(), vocab).view(*positions.shape, vocab)
