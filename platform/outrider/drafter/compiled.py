"""The drafter's round in two compiled calls: contexts in, and blocks through the backbone and drawn left to right.

Eager stays the reference and does what is missing here: heads with a state or a gate and top-p draw on compiled
logits in torch; sandwich layers, other dtypes and devices run eagerly altogether.

Shapes: R blocks, γ block size, d hidden size, V vocabulary, L layers, S token capacity of a slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outrider.drafter.blocks import block_inputs, draw_blocks
from outrider.drafter.heads import MarkovHead
from outrider.drafter.model import DSparkModel
from outrider.drafter.picks import CoupledPick, drawn_at
from outrider.speculation import RowSampling
from outrider_kernels import (
    DecoderLayer,
    DecoderRows,
    DecoderWeights,
    HeadWeights,
    NativeDraft,
    PendingStep,
    store_context,
)

__all__ = ["CompiledDraft"]

_PANEL = 32


class CompiledDraft:
    """Compiles in the background; `ready` says whether it may be called yet."""

    def __init__(self, model: DSparkModel) -> None:
        self._model = model
        self.pending = PendingStep(lambda: _weights(model))
        self._draft: NativeDraft | None = None

    @staticmethod
    def fits(model: DSparkModel) -> bool:
        """Whether the model's layers are Qwen3's, in fp32 on the CPU, with projections that split at panels."""
        geometry, weight = model.geometry, model.fc.weight
        return (
            geometry.plain
            and geometry.heads * geometry.width % _PANEL == 0
            and weight.device.type == "cpu"
            and weight.dtype == torch.float32
        )

    @property
    def ready(self) -> bool:
        """False while compiling, and for good where this machine cannot."""
        return self.pending.step is not None

    def store(self, rows: Tensor, positions: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Project rows [n, d] into keys and values [L, slots, S, K, D]; places int64 [n] among all slots' rows."""
        step = self.pending.step
        assert step is not None
        store_context(step, rows.contiguous(), positions, places, keys, values)

    def propose(
        self,
        first_rows: list[int],
        anchors: Tensor,
        positions: Tensor,
        sampling: RowSampling,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `draft_blocks`; first_rows: where in keys and values each block's context begins, `positions` long."""
        draft = self._native_draft()
        if draft is not None and not sampling.cuts:
            racers = (sampling.temperature, sampling.seeds, sampling.choices) if sampling.random else None
            return draft.propose(first_rows, anchors, positions, racers, keys, values)
        hidden, logits = self.base(first_rows, anchors, positions, keys, values)
        pick = CoupledPick(sampling, drawn_at(positions, logits.shape[1]), logits.shape[-1])
        return draw_blocks(self._model, hidden, logits, anchors, pick)

    def base(
        self, first_rows: list[int], anchors: Tensor, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [R, γ, d] and base logits [R, γ, V] of the blocks `propose` would draw."""
        step = self.pending.step
        assert step is not None
        ids, places = block_inputs(self._model, anchors, positions)
        count, gamma = ids.shape
        rows = DecoderRows(
            token_ids=ids.view(-1),
            positions=places.view(-1),
            first_row=range(0, (count + 1) * gamma, gamma),
            context=positions.tolist(),
            keys=_rows(keys),
            values=_rows(values),
            wanted=torch.arange(count * gamma),
            first_slot=first_rows,
            causal=False,
            writes=False,
        )
        hidden, logits = step(rows, hidden=True)
        return hidden.view(count, gamma, -1), logits.view(count, gamma, -1)

    def _native_draft(self) -> NativeDraft | None:
        """None where the sequential head has a state or a gate, or where nothing scores confidence."""
        config, markov, confidence = self._model.config, self._model.markov_head, self._model.confidence_head
        if self._draft is not None or confidence is None or type(markov) not in (MarkovHead, type(None)):
            return self._draft
        step = self.pending.step
        assert step is not None
        weights = HeadWeights(
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            w1=markov.markov_w1.weight if markov else None,
            w2=markov.markov_w2.weight if markov else None,
            confidence=confidence.proj.weight[0],
            confidence_bias=float(confidence.proj.bias),
        )
        self._draft = NativeDraft(step, weights, block_size=config.block_size, mask_token=config.mask_token_id)
        return self._draft


def _rows(planes: Tensor) -> list[Tensor]:
    """[L, slots, S, K, D] as one [slots·S, K, D] per layer."""
    return list(planes.flatten(1, 2))


@torch.no_grad()
def _weights(model: DSparkModel) -> DecoderWeights:
    geometry = model.geometry
    exponents = torch.arange(0, geometry.width, 2, dtype=torch.float32) / geometry.width
    return DecoderWeights(
        embedding=model.embed_tokens.weight,
        layers=tuple(DecoderLayer.of(layer, geometry.heads, geometry.groups) for layer in model.layers),
        final_norm=model.norm.weight,
        head=model.lm_head.weight,
        frequencies=geometry.rope_theta**-exponents,
        heads=geometry.heads,
        kv_heads=geometry.groups,
        eps=model.config.rms_norm_eps,
        scaling=geometry.scale or geometry.width**-0.5,
    )
