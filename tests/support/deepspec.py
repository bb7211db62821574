"""Our drafts from given hidden states of a target, as the DeepSpec parity fixtures hold the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from outrider.drafter.model import DSparkModel

__all__ = ["drafted_by_us"]


@torch.inference_mode()
def drafted_by_us(directory: Path, states: Tensor, anchors: Sequence[int], first_tokens: Tensor) -> dict[str, Tensor]:
    """Greedy blocks at each anchor: hidden [A, γ, d], logits [A, γ, V], tokens [A, γ], confidence_logits [A, γ] if any.

    states: [layers + 1, T, d] as `hidden_states` of the target; first_tokens: the token at each anchor.
    """
    model = DSparkModel.load(directory)
    gamma, config = model.config.block_size, model.config
    features = torch.cat([states[layer + 1] for layer in config.target_layer_ids], dim=-1)
    positions = torch.tensor(anchors)
    keys, values = model.context_kv(model.project(features), torch.arange(len(features)))
    many = (keys.shape[0], len(anchors), *keys.shape[1:])
    block = torch.full((len(anchors), gamma), config.mask_token_id)
    block[:, 0] = first_tokens
    hidden = model.backbone(
        block,
        positions[:, None] + torch.arange(gamma),
        keys[:, None].expand(many),
        values[:, None].expand(many),
        positions,
    )
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
