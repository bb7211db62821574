"""Block drawing in torch, slot after slot, without waiting for a device.

Shapes: R rows, γ block size, d hidden size, V vocabulary, r Markov rank, w best tokens looked at.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from outrider_kernels import counter_noise
from outrider_kernels.draft_sampling.rows import DrawRows, Sampled, SequentialHead

__all__ = ["best_tokens", "coupled_keys", "cut", "draw_blocks", "slot_logits", "stream_keys"]

_DRAFT_STREAM: Final = 0
_STREAMS: Final = 4


def draw_blocks(
    hidden: Tensor,
    base: Tensor,
    anchors: Tensor,
    positions: Tensor,
    head: SequentialHead,
    rows: DrawRows,
    *,
    width: int = 0,
) -> Sampled:
    """Draw; `width` is at most V, and not zero where rows have cuts or are under the rejection rule."""
    gamma = base.shape[1]
    previous = anchors
    drawn: list[Tensor] = []
    kept: list[tuple[Tensor, Tensor]] = []
    for slot in range(gamma):
        logits = slot_logits(base[:, slot], previous, head)
        tokens = _raced(logits, positions + slot + 1, rows, width)
        if rows.rejects:
            rejecting, q_tokens, q_probs = _sparse(logits, slot, rows, width)
            under = rows.rounds >= 0
            tokens = torch.where(under, rejecting, tokens)
            kept.append((torch.where(under[:, None], q_tokens, 0), torch.where(under[:, None], q_probs, 0.0)))
        drawn.append(tokens)
        previous = tokens
    found = torch.stack(drawn, 1)
    confidence = _confidence(hidden, torch.cat((anchors[:, None], found[:, :-1]), 1), head)
    if not kept:
        return Sampled(found, confidence)
    return Sampled(found, confidence, torch.stack([q for q, _ in kept], 1), torch.stack([p for _, p in kept], 1))


def slot_logits(base: Tensor, previous: Tensor, head: SequentialHead) -> Tensor:
    """U_k + W2·W1[x_{k−1}], fp32 [R, V], of base [R, V] and the tokens before the slot [R]."""
    logits = base.float()
    if head.w1 is None or head.w2 is None:
        return logits
    return logits + head.w1[previous].float() @ head.w2.float().T


def best_tokens(logits: Tensor, rows: DrawRows, width: int) -> tuple[Tensor, Tensor]:
    """The `width` best tokens int64 [R, w], lower ids first among equals, and their chances fp32 after temperature."""
    scaled = logits / torch.where(rows.temperature > 0, rows.temperature, 1.0)[:, None]
    best, tokens = scaled.sort(dim=-1, descending=True, stable=True)
    return tokens[:, :width], torch.exp(best[:, :width] - scaled.logsumexp(dim=-1, keepdim=True))


def cut(probs: Tensor, rows: DrawRows) -> Tensor:
    """Descending chances [R, w] with what top-k, nucleus and min-p drop set to zero; the first always stays."""
    top_k, top_p = rows.top_k[:, None], rows.top_p[:, None]
    ranks = torch.arange(probs.shape[-1], device=probs.device)
    probs = probs.masked_fill((ranks >= top_k) & (top_k > 0), 0.0)
    limit = torch.where(top_p < 1, top_p.clamp(min=1e-9), torch.inf)
    limit = torch.where(top_k > 0, limit * probs.sum(dim=-1, keepdim=True), limit)  # a share of what top-k kept
    probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= limit, 0.0)
    return probs.masked_fill(probs < probs[:, :1] * rows.min_p[:, None], 0.0)


def coupled_keys(rows: DrawRows, positions: Tensor) -> Tensor:
    """Keys int32 [R, 2] of the race for the tokens to stand at `positions` [R]."""
    return counter_noise.row_keys(rows.seeds, rows.choices, positions)


def stream_keys(rows: DrawRows, slot: int) -> Tensor:
    """Keys int32 [R, 2] of the rejection rule's draw of one slot."""
    streams = torch.full_like(rows.rounds, _STREAMS * slot + _DRAFT_STREAM)
    return counter_noise.row_keys(rows.seeds, rows.choices, rows.rounds, streams)


def _raced(logits: Tensor, positions: Tensor, rows: DrawRows, width: int) -> Tensor:
    """Tokens [R] of the coupled rule, greedy rows' included: the race over all tokens, or of a cut row's best."""
    greedy = logits.argmax(dim=-1)
    if not rows.random:
        return greedy
    noise = counter_noise.exponential(coupled_keys(rows, positions), logits.shape[-1])
    scaled = logits / torch.where(rows.temperature > 0, rows.temperature, 1.0)[:, None]
    tokens = (noise / torch.softmax(scaled, dim=-1)).argmin(dim=-1)
    if rows.cuts:
        best, probs = best_tokens(logits, rows, width)
        place = (noise.gather(1, best) / cut(probs, rows)).argmin(dim=-1, keepdim=True)
        has_cut = (rows.top_p < 1) | (rows.top_k > 0) | (rows.min_p > 0)
        tokens = torch.where(has_cut, best.gather(1, place).squeeze(1), tokens)
    return torch.where(rows.temperature > 0, tokens, greedy)


def _sparse(logits: Tensor, slot: int, rows: DrawRows, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [R] of the rejection rule with the q [R, w] they were drawn from: ids and probabilities."""
    tokens, probs = best_tokens(logits, rows, width)
    if rows.cuts:
        probs = cut(probs, rows)
    probs = probs / probs.sum(dim=-1, keepdim=True)
    noise = counter_noise.exponential(stream_keys(rows, slot), width)
    place = (noise / probs).argmin(dim=-1, keepdim=True)
    return tokens.gather(1, place).squeeze(1), tokens, probs


def _confidence(hidden: Tensor, previous: Tensor, head: SequentialHead) -> Tensor:
    """Logits fp32 [R, γ] from hidden states [R, γ, d] and the tokens before each slot [R, γ]; never NaN."""
    joined = hidden.float()
    if len(head.confidence) > hidden.shape[-1]:
        assert head.w1 is not None
        joined = torch.cat((joined, head.w1[previous].float()), dim=-1)
    logits = joined @ head.confidence.float() + head.confidence_bias
    return logits.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
