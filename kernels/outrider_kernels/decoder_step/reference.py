"""The decoder step in plain torch, span by span: what the native one is tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

from outrider_kernels.decoder_step.weights import DecoderLayer, DecoderRows, DecoderWeights, HeadWeights

__all__ = ["reference_context", "reference_draw", "reference_step"]


def reference_step(weights: DecoderWeights, rows: DecoderRows) -> tuple[Tensor, Tensor]:
    """Hidden states after the final norm [n, d] and logits [n, V] of the wanted rows; stores what `rows` says."""
    hidden = embedding(rows.token_ids, weights.embedding)
    cos, sin = _turn(weights, rows.positions)
    taps = {-1: hidden}
    for number, layer in enumerate(weights.layers):
        hidden = hidden + linear(_attention(weights, layer, number, hidden, cos, sin, rows), layer.out)
        inner = _norm(hidden, layer.post_norm, weights.eps)
        hidden = hidden + linear(silu(linear(inner, layer.gate)) * linear(inner, layer.up), layer.down)
        taps[number] = hidden
    if weights.projection is not None and rows.features is not None:
        layer_ids, fc, norm, eps = weights.projection
        projected = _norm(linear(torch.cat([taps[number] for number in layer_ids], dim=-1), fc), norm, eps)
        for span, first in enumerate(rows.context):
            own = slice(rows.first_row[span], rows.first_row[span + 1])
            rows.features[_own_slots(rows, span, first)] = projected[own]
    final = _norm(hidden[rows.wanted], weights.final_norm, weights.eps)
    return final, linear(final, weights.head)


def reference_context(
    weights: DecoderWeights,
    rows: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> None:
    """As `store_context`."""
    heads, both, width = weights.heads, weights.heads + weights.kv_heads, weights.head_dim
    cos, sin = _turn(weights, positions)
    for layer, key_plane, value_plane in zip(weights.layers, keys.flatten(1, 2), values.flatten(1, 2), strict=True):
        kv = linear(rows, layer.qkv[heads * width :]).view(len(rows), 2, -1, width)
        normed = torch.rms_norm(kv[:, 0], (width,), None, weights.eps) * layer.qk_norm[heads:both]
        key_plane[slots], value_plane[slots] = _rotated(normed, cos, sin), kv[:, 1]


def reference_draw(
    head: HeadWeights, hidden: Tensor, logits: Tensor, anchors: Tensor, noise: Tensor | None, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens int64 and confidence logits, both [R, γ], of R blocks drawn left to right.

    hidden [R·γ, d]; logits [R·γ, V] without the head's bias; anchors int64 [R]; temperature [R], of which 0 is greedy;
    noise: exponential, [R, γ, V], None when all is greedy.
    """
    count = len(anchors)
    states, scores = hidden.view(count, -1, hidden.shape[1]), logits.view(count, -1, logits.shape[1])
    previous, tokens, confidences = anchors, [], []
    for slot in range(scores.shape[1]):
        row, state = scores[:, slot], states[:, slot]
        if head.w1 is not None and head.w2 is not None:
            row = row + linear(head.w1[previous], head.w2)
            state = torch.cat((state, head.w1[previous]), dim=1)[:, : len(head.confidence)]
        previous = row.argmax(dim=1)
        if noise is not None:
            chance = torch.softmax(row / temperature.clamp(min=1e-9)[:, None], dim=1)
            previous = torch.where(temperature > 0, (chance / noise[:, slot]).argmax(dim=1), row.argmax(dim=1))
        tokens.append(previous)
        confidences.append(state @ head.confidence + head.confidence_bias)
    return torch.stack(tokens, 1), torch.stack(confidences, 1)


def _attention(
    weights: DecoderWeights,
    layer: DecoderLayer,
    number: int,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    rows: DecoderRows,
) -> Tensor:
    """[B, H·D]."""
    heads, both = weights.heads, weights.heads + weights.kv_heads
    qkv = linear(_norm(hidden, layer.input_norm, weights.eps), layer.qkv).view(len(hidden), -1, weights.head_dim)
    qk = torch.rms_norm(qkv[:, :both], (weights.head_dim,), None, weights.eps) * layer.qk_norm
    qk = _rotated(qk, cos, sin)
    mixed = []
    for span, context in enumerate(rows.context):
        own = slice(rows.first_row[span], rows.first_row[span + 1])
        at = rows.span_slots(span)
        keys, values = rows.keys[number][at].clone(), rows.values[number][at].clone()
        keys[context:], values[context:] = qk[own, heads:], qkv[own, both:]
        if rows.writes:
            mine = _own_slots(rows, span, context)
            rows.keys[number][mine], rows.values[number][mine] = qk[own, heads:], qkv[own, both:]
        seen = torch.arange(len(keys)) < context + torch.arange(1, len(qk[own]) + 1)[:, None]
        out = scaled_dot_product_attention(
            qk[own, :heads].transpose(0, 1),
            keys.transpose(0, 1),
            values.transpose(0, 1),
            attn_mask=seen if rows.causal else None,
            scale=weights.scaling,
            enable_gqa=True,
        )
        mixed.append(out.transpose(0, 1).flatten(1))
    return torch.cat(mixed)


def _own_slots(rows: DecoderRows, span: int, context: int) -> Tensor | slice:
    at = rows.span_slots(span)
    return slice(at.start + context, at.stop) if isinstance(at, slice) else at[context:]


def _norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.rms_norm(rows, weight.shape, weight, eps)


def _turn(weights: DecoderWeights, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [n, 1, D]."""
    angles = (positions[:, None].float() * weights.frequencies).repeat(1, 2)[:, None]
    return angles.cos() * weights.rotation_scale, angles.sin() * weights.rotation_scale


def _rotated(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = rows.chunk(2, dim=-1)
    return rows * cos + torch.cat((-high, low), dim=-1) * sin
