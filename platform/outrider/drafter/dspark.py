"""DSpark (and DFlash) as a proposer: context keys and values of every sequence in one pool, blocks for many at once."""

from __future__ import annotations

from torch import Tensor

from outrider.drafter.blocks import block_states, draft_blocks, draw_blocks, placed
from outrider.drafter.compiled import CompiledDraft
from outrider.drafter.contexts import ContextPool
from outrider.drafter.model import DSparkModel
from outrider.drafter.picks import MixedPick, drawn_at
from outrider.drafter.projection import projection_fingerprint
from outrider.speculation import SPARSE_DRAFT, RowSampling, SparseDraft, SparseProbs

__all__ = ["DSparkProposer"]


class DSparkProposer(ContextPool):
    """Reads projected rows; its contexts live on the model's device. A compiled step takes over where there is one."""

    def __init__(self, model: DSparkModel, *, compiled: bool = True, sparse: SparseDraft = SPARSE_DRAFT) -> None:
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
        self.compiled = CompiledDraft(model) if compiled and CompiledDraft.fits(model) else None
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
            self.compiled.store(rows, positions, self._grow(takers), self._keys, self._values)
            return
        places = positions.to(self._device)
        self.store(takers, *self._model.context_kv(rows.to(self._device, self._dtype), places))

    def propose(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor]:
        """Blocks of γ tokens with the confidence head's logits, or what stands in for them."""
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
        """One pass of the backbone for all rows; the heads draw in torch."""
        places, first = positions.to(self._device), anchors.to(self._device)
        if self.compiled is not None and self.compiled.ready:
            hidden, base = self.compiled.base(self._first_rows(slots), first, places, self._keys, self._values)
        else:
            hidden, base = block_states(self._model, first, places, self.view(slots))
        at = drawn_at(places, self.block_size)
        pick = MixedPick(placed(sampling, places), at, base.shape[-1], self._sparse)
        tokens, confidence = draw_blocks(self._model, hidden, base, first, pick)
        return tokens, confidence, pick.q

    def _first_rows(self, slots: list[int]) -> list[int]:
        """Where each slot's context begins among all slots' rows."""
        return [slot * self._keys.shape[2] for slot in slots]
