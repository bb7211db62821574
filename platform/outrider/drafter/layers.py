"""The drafter's decoder layers: their parameters under DeepSpec's names, and those joined as the forward reads them.

Shapes: R requests, γ block size, H query heads, K key/value heads, D head width, P positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from outrider.drafter.decoder_config import DecoderConfig
from outrider.drafter.geometry import Geometry
from outrider_kernels import Linear

__all__ = [
    "Layer",
    "LayerWeights",
    "Scale",
    "fold_groups",
    "join",
    "rope_frequencies",
    "rope_tables",
    "rotate",
    "unfold_groups",
]


class Scale(nn.Module):
    """The weight of an RMS norm; the arithmetic is `torch.rms_norm` where it is used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class _Attention(nn.Module):
    def __init__(self, width: int, geometry: Geometry) -> None:
        super().__init__()
        queries, keys = geometry.heads * geometry.width, geometry.groups * geometry.width
        self.q_proj = nn.Linear(width, queries, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        if not geometry.keys_are_values:
            self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(queries, width, bias=False)
        self.q_norm = Scale(geometry.width)
        self.k_norm = Scale(geometry.width)


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)


class Layer(nn.Module):
    """One decoder layer's parameters."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = _Attention(width, config.geometry)
        self.mlp = _Mlp(width, config.intermediate_size)
        self.input_layernorm = Scale(width)
        self.post_attention_layernorm = Scale(width)
        if config.geometry.sandwich:
            self.pre_feedforward_layernorm = Scale(width)
            self.post_feedforward_layernorm = Scale(width)
            self.register_buffer("layer_scalar", torch.ones(1))


class LayerWeights(NamedTuple):
    """One layer as its forward pass reads it: joined projections save a third of the calls.

    The last three are None but in a sandwich: norms of what attention and feed-forward add, and the layer's scalar.
    """

    qkv: Linear
    context_kv: Linear
    qk_scale: Tensor
    output: Linear
    gate_up: Linear
    down: Linear
    input_norm: Tensor
    mlp_norm: Tensor
    attention_added: Tensor | None
    mlp_added: Tensor | None
    scalar: Tensor | None


def join(layer: Any, geometry: Geometry, linear: Callable[[Tensor], Linear]) -> LayerWeights:
    """The joined weights of a `Layer`, as functions made by `linear`."""
    attention, mlp = layer.self_attn, layer.mlp
    scales = [attention.q_norm.weight] * geometry.heads + [attention.k_norm.weight] * geometry.groups
    values = attention.k_proj if geometry.keys_are_values else attention.v_proj
    context = (attention.k_proj.weight, values.weight)
    after_attention = layer.post_attention_layernorm.weight
    return LayerWeights(
        qkv=linear(torch.cat((attention.q_proj.weight, *context))),
        context_kv=linear(torch.cat(context)),
        qk_scale=torch.stack(scales),
        output=linear(attention.o_proj.weight),
        gate_up=linear(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))),
        down=linear(mlp.down_proj.weight),
        input_norm=layer.input_layernorm.weight,
        mlp_norm=layer.pre_feedforward_layernorm.weight if geometry.sandwich else after_attention,
        attention_added=after_attention if geometry.sandwich else None,
        mlp_added=layer.post_feedforward_layernorm.weight if geometry.sandwich else None,
        scalar=layer.layer_scalar if geometry.sandwich else None,
    )


def rope_frequencies(geometry: Geometry) -> Tensor:
    """fp32 [D/2]. Beyond the rotated share the frequency is zero, which rotates nothing."""
    half = torch.arange(0, geometry.width, 2, dtype=torch.float32) / geometry.width
    frequencies = geometry.rope_theta**-half
    frequencies[int(geometry.rotary_share * geometry.width // 2) :] = 0
    return frequencies


def rope_tables(geometry: Geometry, positions: int) -> tuple[Tensor, Tensor]:
    """cos and signed sin [P, D]: x·cos + roll(x, D/2)·sin equals the families' x·cos + rotate_half(x)·sin."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), rope_frequencies(geometry))
    return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)


def rotate(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rows [..., D] turned by the tables' rows of their positions."""
    return torch.addcmul(rows * cos, rows.roll(rows.shape[-1] // 2, -1), sin)


def fold_groups(query: Tensor, groups: int) -> Tensor:
    """[R, γ, H, D] → [R, K, (H/K)·γ, D]: all rows of a block see the same keys, so no key is repeated."""
    requests, slots, heads, width = query.shape
    return (
        query.view(requests, slots, groups, heads // groups, width)
        .permute(0, 2, 3, 1, 4)
        .reshape(requests, groups, heads // groups * slots, width)
    )


def unfold_groups(mixed: Tensor, slots: int) -> Tensor:
    """[R, K, (H/K)·γ, D] → [R, γ, H·D]."""
    requests, groups, rows, width = mixed.shape
    return (
        mixed.view(requests, groups, rows // slots, slots, width)
        .permute(0, 3, 1, 2, 4)
        .reshape(requests, slots, groups * (rows // slots) * width)
    )
