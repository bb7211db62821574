"""The drafter's loss: 0.1·CE + 0.9·L1 of the distributions + confidence cross-entropy, decaying over slots.

Shapes: N supervised slots, V vocabulary. The mixture is DSpark's (arXiv 2607.05147); the confidence label is the match
probability of coupled verification, because that is how answers are verified.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DrafterLoss", "drafter_loss", "match_probability", "slot_weights"]

CE_SHARE = 0.1
L1_SHARE = 0.9
CONFIDENCE_SHARE = 1.0
SLOT_DECAY = 4.0  # the released configurations' value for γ = 7


@dataclass(frozen=True, slots=True)
class DrafterLoss:
    """The weighted loss to descend, and figures for the log: total variation and confidence label per slot [N]."""

    total: Tensor
    overlap: Tensor
    match: Tensor


def slot_weights(block_size: int) -> Tensor:
    """exp(−(k−1)/4) for slots k = 1…γ."""
    return torch.exp(-torch.arange(block_size, dtype=torch.float32) / SLOT_DECAY)


def match_probability(target: Tensor, draft: Tensor, top: int = 32) -> Tensor:
    """Σ_i 1/Σ_j max(p_j/p_i, q_j/q_i): how often two exponential races with shared noise agree, [N] for p, q [N, V].

    Only the `top` tokens by max(p, q) are raced against one another; the rest is one more runner with the summed mass,
    which agrees with itself in the share of its mass that p and q have in common. Exact for V ≤ top.
    """
    _, kept = torch.maximum(target, draft).topk(min(top, target.shape[-1]), dim=-1)
    p, q = target.gather(-1, kept).clamp_min(1e-9), draft.gather(-1, kept).clamp_min(1e-9)
    rest_p, rest_q = (1 - p.sum(-1, keepdim=True)).clamp_min(0), (1 - q.sum(-1, keepdim=True)).clamp_min(0)
    rivals = torch.maximum(p[:, None, :] / p[:, :, None], q[:, None, :] / q[:, :, None]).sum(-1)
    common = (torch.minimum(target, draft).sum(-1, keepdim=True) - torch.minimum(p, q).sum(-1, keepdim=True)).clamp_min(
        0
    )
    largest = torch.maximum(rest_p, rest_q).clamp_min(1e-9)
    spread = (rest_p + rest_q - common) / largest  # Σ max(p, q) over the rest, in units of its larger mass
    rivals = rivals + torch.maximum(rest_p / p, rest_q / q) * spread
    against_rest = torch.maximum(p / rest_p.clamp_min(1e-9), q / rest_q.clamp_min(1e-9)).sum(-1, keepdim=True)
    rest_agrees = common / largest / (spread.clamp_min(1.0) + against_rest)
    return ((1 / rivals).sum(-1) + rest_agrees.squeeze(-1)).clamp(0, 1)


def drafter_loss(
    logits: Tensor, target_logits: Tensor, tokens: Tensor, confidence: Tensor | None, weights: Tensor
) -> DrafterLoss:
    """Loss over N slots: draft and target `logits` [N, V], the real `tokens` [N], `confidence` logits [N]."""
    draft = torch.softmax(logits.float(), dim=-1)
    target = torch.softmax(target_logits.float(), dim=-1)
    distance = (draft - target).abs().sum(-1)
    share = weights / weights.sum()
    surprise = -draft.gather(1, tokens[:, None]).squeeze(1).clamp_min(1e-9).log()
    total = CE_SHARE * (share * surprise).sum() + L1_SHARE * (share * distance).sum()
    with torch.no_grad():
        match = match_probability(target, draft)
    if confidence is not None:
        errors = F.binary_cross_entropy_with_logits(confidence, match, reduction="none")
        total = total + CONFIDENCE_SHARE * (share * errors).sum()
    return DrafterLoss(total, 1 - 0.5 * distance.detach(), match)
