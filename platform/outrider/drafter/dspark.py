"""DSpark (and DFlash) as a proposer: context keys and values of every sequence in one pool, blocks for many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from outrider.drafter.blocks import block_states, draft_blocks, draw_blocks, placed
from outrider.drafter.compiled import CompiledDraft
from outrider.drafter.contexts import ContextPool
from outrider.drafter.device import DeviceDraft, draw_rows
from outrider.drafter.model import DSparkModel
from outrider.drafter.picks import MixedPick, drawn_at
from outrider.drafter.projection import projection_fingerprint
from outrider.speculation import SPARSE_DRAFT, RowSampling, SparseDraft, SparseProbs
from outrider_kernels.draft_sampling import Sampled

__all__ = ["DSparkProposer"]


class DSparkProposer(ContextPool):
    """Reads projected rows; its contexts live on the model's device. A compiled step takes over where there is one.

    On a GPU the kernels draft (`device`), if they can; `device_draft` asks for them, or against them, anywhere.
    """

    def __init__(
        self,
        model: DSparkModel,
        *,
        compiled: bool = True,
        sparse: SparseDraft = SPARSE_DRAFT,
        device_draft: bool | None = None,
    ) -> None:
        config, weight = model.config, model.fc.weight
        super().__init__(
            config.num_hidden_layers,
            model.geometry.groups,
            model.geometry.width,
            device=weight.device,
            dtype=weight.dtype,
        )
        self._model = model
        self._sparse = sparse
        if device_draft is None:
            device_draft = weight.device.type == "cuda" and DeviceDraft.fits(model)
        self.device = DeviceDraft(model, self) if device_draft else None
        self.compiled = CompiledDraft(model) if compiled and not device_draft and CompiledDraft.fits(model) else None
        self._device, self._dtype = weight.device, weight.dtype
        self.vocab_size = config.vocab_size
        self.context_tokens = config.max_position_embeddings
        self.block_size = config.block_size
        self.row_size = config.hidden_size
        self.fingerprint = projection_fingerprint(weight, model.hidden_norm.weight)

    def append(self, takers: list[tuple[int, int]], positions: Tensor, rows: Tensor, tokens: Tensor) -> None:
        """Store what the rows project to in every layer, all sequences in one product; token ids are not read."""
        del tokens
        if self.compiled is not None and self.compiled.ready:
            self.compiled.store(rows, positions, self.grow(takers), self._keys, self._values)
            return
        projected, places = rows.to(self._device, self._dtype), positions.to(self._device)
        if self.device is not None:
            self.device.append(projected, places, self.grow(takers))
            return
        self.store(takers, *self._model.context_kv(projected, places))

    def propose(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor]:
        """Blocks of γ tokens with the confidence head's logits, or what stands in for them."""
        if self.device is not None:
            found = self._on_device(self.device, slots, anchors, positions, sampling)
            return found.tokens, found.confidence
        if self.compiled is not None and self.compiled.ready:
            return self.compiled.propose(
                self._first_rows(slots), anchors, positions, sampling, self._keys, self._values
            )
        places = positions.to(self._device)
        rows = placed(sampling, places)
        return draft_blocks(self._model, anchors.to(self._device), places, self.view(slots), rows)

    def propose_mixed(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor, SparseProbs]:
        """One pass of the backbone for all rows; the heads draw in torch where there are no kernels for this q."""
        if self.device is not None and self._sparse == SparseDraft(self._sparse.width):
            found = self._on_device(self.device, slots, anchors, positions, sampling, self._sparse.width)
            assert found.q_tokens is not None
            assert found.q_probs is not None
            assert sampling.rounds is not None
            under = (sampling.rounds >= 0).nonzero().flatten().to(self._device)
            return found.tokens, found.confidence, SparseProbs(found.q_tokens[under], found.q_probs[under])
        places, first = positions.to(self._device), anchors.to(self._device)
        if self.compiled is not None and self.compiled.ready:
            hidden, base = self.compiled.base(self._first_rows(slots), first, places, self._keys, self._values)
        else:
            hidden, base = block_states(self._model, first, places, self.view(slots))
        at = drawn_at(places, self.block_size)
        pick = MixedPick(placed(sampling, places), at, base.shape[-1], self._sparse)
        tokens, confidence = draw_blocks(self._model, hidden, base, first, pick)
        return tokens, confidence, pick.q

    def _on_device(
        self,
        device: DeviceDraft,
        slots: list[int],
        anchors: Tensor,
        positions: Tensor,
        sampling: RowSampling,
        width: int = 0,
    ) -> Sampled:
        places = positions.to(self._device)
        held = torch.tensor(slots, device=self._device)
        rows = draw_rows(sampling, self._device)
        return device.propose(held, places.int(), anchors.to(self._device), places, rows, width=width)

    def _first_rows(self, slots: list[int]) -> list[int]:
        """Where each slot's context begins among all slots' rows."""
        return [slot * self._keys.shape[2] for slot in slots]
