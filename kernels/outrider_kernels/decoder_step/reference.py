"""The decoder step in plain torch, span by span: what the native one is tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

from outrider_kernels.decoder_step.weights import DecoderLayer, DecoderRows, DecoderWeights

__all__ = ["reference_step"]


def reference_step(weights: DecoderWeights, rows: DecoderRows) -> tuple[Tensor, Tensor]:
    """Hidden states after the final norm [n, d] and logits [n, V] of the wanted rows; stores what `rows` says."""
    hidden = embedding(rows.token_ids, weights.embedding)
    angles = rows.positions[:, None].float() * weights.frequencies
    cos, sin = (part.repeat(1, 2)[:, None] * weights.rotation_scale for part in (angles.cos(), angles.sin()))
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
    low, high = qk.chunk(2, dim=-1)
    qk = qk * cos + torch.cat((-high, low), dim=-1) * sin
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
