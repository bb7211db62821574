"""The drafter's loss: cross-entropy, L1 of the distributions and confidence cross-entropy, decaying over slots.

Shapes: N supervised slots, V vocabulary. The mixture is DSpark's (arXiv 2607.05147: 0.1, 0.9 and 1.0); DFlash's
published loss is the cross-entropy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from outrider.training.recipe import LossSection

__all__ = ["DrafterLoss", "drafter_loss", "match_probability", "slot_weights"]

RELEASED = LossSection()


@dataclass(frozen=True, slots=True)
class DrafterLoss:
    """The weighted loss to descend, and figures for the log, each [N] without gradient.

    surprise: −log q of the real token; overlap: 1 − TV; match: agreement of two races; confidence: its cross-entropy.
    """

    total: Tensor
    surprise: Tensor
    overlap: Tensor
    match: Tensor
    confidence: Tensor | None


def slot_weights(block_size: int, decay: float = RELEASED.decay) -> Tensor:
    """exp(−(k−1)/decay) for slots k = 1…γ; the released configurations have decay 4 at γ = 7."""
    return torch.exp(-torch.arange(block_size, dtype=torch.float32) / decay)


class _FusedLoss(torch.autograd.Function):
    """Σ w·(ce·surprise + tv·distance) with its gradient computed in the same pass over [N, V].

    With q = softmax(z): ∂surprise/∂z = q − onehot and, for s = sign(q − p), ∂Σ|q − p|/∂z = q·(s − Σ s·q).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, tokens: Tensor, weights: Tensor, ce: float, tv: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scores = logits.float()
        norm = scores.logsumexp(dim=-1, keepdim=True)
        surprise = (norm - scores.gather(1, tokens[:, None])).squeeze(1)
        draft = (scores - norm).exp_()
        gap = draft - target
        distance = gap.abs().sum(-1)
        sign = gap.sign_()
        gradient = sign.sub_((sign * draft).sum(-1, keepdim=True)).mul_(tv).add_(ce).mul_(draft)
        gradient.scatter_add_(1, tokens[:, None], gradient.new_full((len(tokens), 1), -ce))
        ctx.save_for_backward(gradient.mul_(weights[:, None]).to(logits.dtype))
        ctx.mark_non_differentiable(surprise, distance, draft)
        return (weights * (ce * surprise + tv * distance)).sum(), surprise, distance, draft

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None, None, None


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
    logits: Tensor,
    target_logits: Tensor,
    tokens: Tensor,
    confidence: Tensor | None,
    weights: Tensor,
    shares: LossSection = RELEASED,
    label: Literal["coupled", "rejection"] = "coupled",
    total_weight: float | None = None,
) -> DrafterLoss:
    """Loss over N slots: draft and target `logits` [N, V], the real `tokens` [N], `confidence` logits [N] if any.

    `weights` [N] are divided by `total_weight`, their own sum unless the slots are a part of a step. The confidence
    label is how often the slot survives: the match probability of coupled verification, or 1 − TV under rejection.
    """
    target = torch.softmax(target_logits.float(), dim=-1)
    share = weights / (weights.sum() if total_weight is None else total_weight)
    fused = _FusedLoss.apply(logits, target, tokens, share, shares.ce, shares.tv)  # type: ignore[no-untyped-call]
    total, surprise, distance, draft = fused
    overlap = 1 - 0.5 * distance
    with torch.no_grad():
        match = match_probability(target, draft)
    errors = None
    if confidence is not None:
        truth = match if label == "coupled" else overlap.clamp(0, 1)
        errors = F.binary_cross_entropy_with_logits(confidence.float(), truth, reduction="none")
        total = total + shares.confidence * (share * errors).sum()
        errors = errors.detach()
    return DrafterLoss(total, surprise, overlap, match, errors)
