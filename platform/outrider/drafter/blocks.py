"""Drafting one block for each of many anchors: backbone, heads and a choice of token, slot after slot.

Shapes: R anchors, γ block size, d hidden size, V vocabulary; contexts as `DraftBackbone.backbone` reads them. Slots k
are 0-based here: slot k of an anchor at position s stands at s+k and chooses the token for position s+k+1
(arXiv 2607.05147).
"""

from __future__ import annotations

import torch
from torch import Tensor

from outrider.drafter.model import DSparkModel
from outrider.drafter.picks import CoupledPick, Pick, drawn_at
from outrider.speculation import RowSampling

__all__ = ["block_inputs", "block_states", "draft_blocks", "draw_blocks", "placed"]


def draft_blocks(
    model: DSparkModel,
    anchors: Tensor,
    positions: Tensor,
    context: tuple[Tensor, Tensor, Tensor],
    sampling: RowSampling,
) -> tuple[Tensor, Tensor]:
    """Token ids int64 and confidence logits fp32, both [R, γ].

    anchors, positions: int64 [R]; context: keys and values [L, R, S, K, D] with lengths int64 [R]; sampling has R
    rows on the model's device. A drafter without a confidence head answers `outrider.drafter.picks.chance_logit`.
    """
    hidden, base = block_states(model, anchors, positions, context)
    pick = CoupledPick(sampling, drawn_at(positions, base.shape[1]), base.shape[-1])
    return draw_blocks(model, hidden, base, anchors, pick)


def block_states(
    model: DSparkModel, anchors: Tensor, positions: Tensor, context: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Hidden states [R, γ, d] and base logits [R, γ, V]."""
    block_ids, block_positions = block_inputs(model, anchors, positions)
    # Slots past the last position are never verified, but their rotation must exist.
    reachable = block_positions.clamp(max=model.config.max_position_embeddings - 1)
    hidden = model.backbone(block_ids, reachable, *context)
    return hidden, model.base_logits(hidden)


def block_inputs(model: DSparkModel, anchors: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids (the anchor, then masks) and positions of every slot, both int64 [R, γ]."""
    gamma = model.config.block_size
    block_ids = anchors.new_full((len(anchors), gamma), model.config.mask_token_id)
    block_ids[:, 0] = anchors
    return block_ids, positions[:, None] + torch.arange(gamma, device=anchors.device)


def draw_blocks(model: DSparkModel, hidden: Tensor, base: Tensor, anchors: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
    """The sequential part: as `draft_blocks` from hidden states [R, γ, d] and base logits [R, γ, V]."""
    previous, state = anchors, None
    tokens: list[Tensor] = []
    embeddings: list[Tensor] = []
    chances: list[Tensor] = []
    for slot in range(base.shape[1]):
        bias, embedding, state = model.head_step(hidden[:, slot], previous, state)
        logits = base[:, slot] if bias is None else base[:, slot] + bias
        previous = pick(slot, logits)
        tokens.append(previous)
        if embedding is not None:
            embeddings.append(embedding)
        if model.confidence_head is None:
            chances.append(pick.chance(logits, previous))
    if chances:
        confidence = torch.stack(chances, 1)
    else:
        # Slot k's confidence depends on x_{k-1} only, so one call after the loop sees nothing of x_k.
        confidence = model.confidence_logit(hidden, torch.stack(embeddings, 1) if embeddings else None)
    return torch.stack(tokens, 1), confidence.nan_to_num(nan=-torch.inf)


def placed(sampling: RowSampling, beside: Tensor) -> RowSampling:
    """The same parameters on the device of `beside`."""
    return sampling.to(beside.device)
