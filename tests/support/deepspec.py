"""Our drafts from given hidden states of a target, as the DeepSpec parity fixtures hold the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from outrider.drafter.blocks import draft_blocks
from outrider.drafter.model import DSparkModel
from outrider.speculation import RowSampling

__all__ = ["drafted_by_us", "served_by_us"]


@torch.inference_mode()
def drafted_by_us(directory: Path, states: Tensor, anchors: Sequence[int], first_tokens: Tensor) -> dict[str, Tensor]:
    """Greedy blocks at each anchor: hidden [A, γ, d], logits [A, γ, V], tokens [A, γ], confidence_logits [A, γ] if any.

    states: [layers + 1, T, d] as `hidden_states` of the target; first_tokens: the token at each anchor.
    """
    model = DSparkModel.load(directory)
    gamma, config = model.config.block_size, model.config
    positions = torch.tensor(anchors)
    context = _context(model, states, positions)
    block = torch.full((len(anchors), gamma), config.mask_token_id)
    block[:, 0] = first_tokens
    hidden = model.backbone(block, positions[:, None] + torch.arange(gamma), *context)
    base, previous, state = model.base_logits(hidden), first_tokens, None
    logits, tokens, confidences = [], [], []
    for slot in range(gamma):
        bias, embedding, state = model.head_step(hidden[:, slot], previous, state)
        logits.append(base[:, slot] if bias is None else base[:, slot] + bias)
        if model.confidence_head is not None:
            confidences.append(model.confidence_logit(hidden[:, slot], embedding))
        previous = logits[-1].argmax(-1)
        tokens.append(previous)
    found = {"hidden": hidden, "logits": torch.stack(logits, 1), "tokens": torch.stack(tokens, 1)}
    return found | ({"confidence_logits": torch.stack(confidences, 1)} if confidences else {})


@torch.inference_mode()
def served_by_us(
    directory: Path, states: Tensor, anchors: Sequence[int], first_tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """The same blocks as a draft server makes them: tokens and confidence logits [A, γ]."""
    model, positions = DSparkModel.load(directory), torch.tensor(anchors)
    greedy = RowSampling.of([0.0] * len(anchors), [1.0] * len(anchors), [0] * len(anchors), [0] * len(anchors))
    return draft_blocks(model, first_tokens, positions, _context(model, states, positions), greedy)


def _context(model: DSparkModel, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values [L, A, T, K, D] of one sequence, for blocks that see the first `positions` [A] of its rows."""
    features = torch.cat([states[layer + 1] for layer in model.config.target_layer_ids], dim=-1)
    keys, values = model.context_kv(model.project(features), torch.arange(len(features)))
    many = (keys.shape[0], len(positions), *keys.shape[1:])
    return keys[:, None].expand(many), values[:, None].expand(many), positions
