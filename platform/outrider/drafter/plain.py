"""Plain-model drafting: a small causal language model proposes what it would say itself.

Shapes: R sequences, c new tokens of each, γ block size, L layers, S positions of memory, K key/value heads, D head
width, V vocabulary. The drafting model shares the target's token ids and nothing else, and draws with the target's own
race noise, so that the two agree as often as their distributions allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outrider.drafter.blocks import placed
from outrider.drafter.contexts import ContextPool
from outrider.drafter.decoder import Decoder
from outrider.drafter.decoder_config import DecoderConfig
from outrider.drafter.layers import fold_groups, unfold_groups
from outrider.drafter.loading import check_shapes, read_tensors
from outrider.drafter.picks import CoupledPick, MixedPick, Pick, drawn_at
from outrider.speculation import RowSampling, SparseProbs
from outrider_kernels import Linear, packed_linear

__all__ = ["PlainConfig", "PlainModel", "PlainProposer", "plain_blocks"]

Memory = tuple[Tensor, Tensor]
"""Keys and values [L, R, S, K, D], indexed by position."""

_BATCHED_TOKENS = 32
"""Appends up to this length run side by side, padded; longer ones (prompts) one by one."""

_ANCHORS_AT_ONCE = 32


class PlainConfig(DecoderConfig):
    """A Qwen3 causal language model's config.json."""

    model_type: Literal["qwen3"]
    tie_word_embeddings: bool = False
    use_sliding_window: Literal[False] = False
    layer_types: tuple[Literal["full_attention"], ...] = ()


class PlainModel(Decoder):
    """A causal decoder for inference, with its memory of past positions held by the caller."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._packed_head: Linear | None = None

    @classmethod
    def load(cls, directory: Path | str, dtype: torch.dtype = torch.float32) -> PlainModel:
        """Read a model directory; the same errors as `DSparkModel.load`."""
        directory = Path(directory)
        config = PlainConfig.load(directory)
        tensors = {name.removeprefix("model."): value for name, value in read_tensors(directory).items()}
        if config.tie_word_embeddings and "embed_tokens.weight" in tensors:
            tensors["lm_head.weight"] = tensors["embed_tokens.weight"]
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in cls(config).state_dict().items()}
        check_shapes(directory, tensors, expected)
        model = cls(config).to(dtype)
        model.load_state_dict(tensors)
        return model.eval().requires_grad_(False)

    def _forget_packed(self) -> None:
        super()._forget_packed()
        self._packed_head = None

    def new_memory(self, sequences: int, positions: int) -> Memory:
        """Memory for `positions` of every sequence, zero."""
        shape = (len(self.layers), sequences, positions, self.geometry.groups, self.geometry.width)
        weight = self.lm_head.weight
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def forward(self, tokens: Tensor, positions: Tensor, memory: Memory) -> Tensor:
        """Normed hidden states [R, c, d]; writes the tokens' keys and values to `memory` at their positions.

        tokens, positions: int64 [R, c]. Each token sees the memory up to its own position. Positions beyond the model's
        context stand for padding, or for what is never verified: they must be computable, and mean nothing.
        """
        keys, values = memory
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        seen = torch.arange(keys.shape[2], device=tokens.device) <= positions[..., None]
        mask = seen.repeat(1, self.geometry.heads // self.geometry.groups, 1)[:, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys[layer][rows, positions], values[layer][rows, positions] = key, value
            past_k, past_v = keys[layer].transpose(1, 2), values[layer].transpose(1, 2)
            folded = fold_groups(query, self.geometry.groups)
            mixed = F.scaled_dot_product_attention(folded, past_k, past_v, attn_mask=mask, scale=self._scale)
            return unfold_groups(mixed, tokens.shape[1])

        return self._decode(tokens, positions.clamp(max=self.config.max_position_embeddings - 1), attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 [..., V]."""
        if self._packed_head is None:
            self._packed_head = packed_linear(self.lm_head.weight)
        return self._packed_head(hidden).float()

    def draft(
        self, anchors: Tensor, positions: Tensor, gamma: int, memory: Memory, pick: Pick
    ) -> tuple[Tensor, Tensor]:
        """Token ids and confidence logits [R, γ], left to right after anchors int64 [R] at positions int64 [R].

        `memory` holds the positions before the anchors and has room for γ more.
        """
        previous = anchors
        tokens: list[Tensor] = []
        chances: list[Tensor] = []
        for slot in range(gamma):
            hidden: Tensor = self(previous[:, None], (positions + slot)[:, None], memory)
            logits = self.logits(hidden[:, 0])
            previous = pick(slot, logits)
            tokens.append(previous)
            chances.append(pick.chance(logits, previous))
        return torch.stack(tokens, 1), torch.stack(chances, 1)


class PlainProposer(ContextPool):
    """A plain model behind a draft server: it reads token ids and keeps keys and values of every sequence.

    The target must have the same token ids; a vocabulary of another size is refused when they meet.
    """

    def __init__(self, model: PlainModel, block_size: int) -> None:
        weight, geometry = model.lm_head.weight, model.geometry
        super().__init__(len(model.layers), geometry.groups, geometry.width, device=weight.device, dtype=weight.dtype)
        self._model = model
        self._device = weight.device
        self.vocab_size = model.config.vocab_size
        self.context_tokens = model.config.max_position_embeddings
        self.block_size = block_size
        self.row_size = 0
        self.fingerprint = ""

    def append(self, takers: list[tuple[int, int]], positions: Tensor, rows: Tensor, tokens: Tensor) -> None:
        """Read committed tokens: long appends one by one, the short ones of a round side by side."""
        del positions, rows
        pieces = torch.split(tokens.to(self._device), [count for _, count in takers])
        work = sorted((slot, piece) for (slot, _), piece in zip(takers, pieces, strict=True))
        short = [(slot, piece) for slot, piece in work if len(piece) <= _BATCHED_TOKENS]
        for batch in (*([each] for each in work if len(each[1]) > _BATCHED_TOKENS), short):
            if batch:
                self._read(batch)

    def _read(self, batch: list[tuple[int, Tensor]]) -> None:
        """Run the next tokens of ascending slots; padding is computed and dropped."""
        slots, pieces = [slot for slot, _ in batch], [piece for _, piece in batch]
        counts = [len(piece) for piece in pieces]
        memory, lengths = self._memory(slots, max(counts))
        positions = lengths[:, None] + torch.arange(max(counts), device=self._device)
        self._model(nn.utils.rnn.pad_sequence(pieces, batch_first=True), positions, memory)
        new = [(row, slice(int(lengths[row]), int(lengths[row]) + count)) for row, count in enumerate(counts)]
        keys, values = (torch.cat([each[:, row, part] for row, part in new], dim=1) for each in memory)
        self.store(list(zip(slots, counts, strict=True)), keys, values)

    def propose(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor]:
        """γ steps of the model; nothing of them stays in the pool."""
        places = positions.to(self._device)
        pick = CoupledPick(placed(sampling, places), drawn_at(places, self.block_size), self.vocab_size)
        return self._draft(slots, anchors, places, pick)

    def propose_mixed(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor, SparseProbs]:
        """The same with a q where it is asked for."""
        places = positions.to(self._device)
        pick = MixedPick(placed(sampling, places), drawn_at(places, self.block_size), self.vocab_size)
        return *self._draft(slots, anchors, places, pick), pick.q

    def _draft(self, slots: list[int], anchors: Tensor, places: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
        memory, _ = self._memory(slots, self.block_size)
        return self._model.draft(anchors.to(self._device), places, self.block_size, memory, pick)

    def _memory(self, slots: list[int], room: int) -> tuple[Memory, Tensor]:
        """A copy of the slots' keys and values with `room` more positions, and their lengths."""
        keys, values, lengths = self.view(slots)
        return (F.pad(keys, (0, 0, 0, 0, 0, room)), F.pad(values, (0, 0, 0, 0, 0, room))), lengths


@torch.inference_mode()
def plain_blocks(
    model: PlainModel,
    tokens: Sequence[int] | Tensor,
    anchors: Sequence[int] | Tensor,
    gamma: int,
    temperature: float,
    seed: int,
    choice: int = 0,
) -> Tensor:
    """Blocks int64 [A, γ] that `model` drafts after each anchor position of one conversation.

    Each depends on tokens 0…s alone and draws with the noise a served request of that seed and choice would see.
    """
    device = model.lm_head.weight.device
    ids, at = torch.as_tensor(tokens, device=device), torch.as_tensor(anchors, device=device)
    whole = model.new_memory(1, len(ids))
    model(ids[None], torch.arange(len(ids), device=device)[None], whole)
    blocks = [torch.empty(0, gamma, dtype=torch.int64, device=device)]
    for some in torch.split(at, _ANCHORS_AT_ONCE) if len(at) else ():
        span, count = int(some.max()), len(some)
        memory = model.new_memory(count, span + gamma)
        for copy, read in zip(memory, whole, strict=True):
            copy[:, :, :span] = read[:, :, :span]
        sampling = RowSampling.of([temperature] * count, [1.0] * count, [seed] * count, [choice] * count)
        pick = CoupledPick(placed(sampling, some), drawn_at(some, gamma), model.config.vocab_size)
        blocks.append(model.draft(ids[some], some, gamma, memory, pick)[0])
    return torch.cat(blocks)
