"""What a decoder step reads: the weights of a Qwen3-shaped stack, and the rows of one step.

Shapes: B rows, R spans, d hidden size, H query heads, K key/value heads, D head size, I inner size, V vocabulary,
m tapped layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["DecoderLayer", "DecoderRows", "DecoderWeights", "HeadWeights", "Projection"]


class DecoderLayer(NamedTuple):
    """Norm weights [d] and matrices [out, in] of one layer; qk_norm [H + K, D] per head, queries first."""

    input_norm: Tensor
    qkv: Tensor
    qk_norm: Tensor
    out: Tensor
    post_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor

    @classmethod
    def of(cls, layer: Any, heads: int, kv_heads: int) -> DecoderLayer:
        """A module whose parts have the names of `transformers`' Qwen3 layers, its joint projections in one matrix."""
        attention, mlp = layer.self_attn, layer.mlp
        norms = (attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(kv_heads, -1))
        return cls(
            input_norm=layer.input_layernorm.weight,
            qkv=torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)),
            qk_norm=torch.cat(norms),
            out=attention.o_proj.weight,
            post_norm=layer.post_attention_layernorm.weight,
            gate=mlp.gate_proj.weight,
            up=mlp.up_proj.weight,
            down=mlp.down_proj.weight,
        )


class Projection(NamedTuple):
    """norm(fc·F) of the tapped layers' outputs F (−1: the embedding): fc [d, m·d], norm [d]."""

    layer_ids: tuple[int, ...]
    fc: Tensor
    norm: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A whole stack. embedding and head [V, d]; frequencies [D/2] of the rotation, its cos and sin scaled by
    rotation_scale; scaling multiplies the attention logits."""

    embedding: Tensor
    layers: tuple[DecoderLayer, ...]
    final_norm: Tensor
    head: Tensor
    frequencies: Tensor
    heads: int
    kv_heads: int
    eps: float
    scaling: float
    rotation_scale: float = 1.0
    projection: Projection | None = None

    @property
    def head_dim(self) -> int:
        """D."""
        return 2 * self.frequencies.shape[0]


@dataclass(frozen=True, slots=True)
class DecoderRows:
    """The rows of one step: spans of consecutive rows, one sequence each.

    token_ids, positions: int64 [B]; first_row: R + 1 ascending row numbers from 0 to B; context: rows of each span's
    sequence before the step. keys, values: per layer [slots, K, D], of which context row j of span r is
    slots[r][j] (int64, one entry per position), or first_slot[r] + j where slots is None.
    Rows attend to their context and to their span's own rows: to earlier ones and themselves when causal, else to all.
    writes: store the rows' keys and values, and projected rows in features [slots, d], at the slots that follow.
    wanted: int64 [n] rows of which results are wanted.
    """

    token_ids: Tensor
    positions: Tensor
    first_row: Sequence[int]
    context: Sequence[int]
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    wanted: Tensor
    slots: Sequence[Tensor] | None = None
    first_slot: Sequence[int] | None = None
    features: Tensor | None = None
    causal: bool = True
    writes: bool = True

    def span_slots(self, span: int) -> Tensor | slice:
        """Slots of a span's context rows and its own."""
        end = self.context[span] + self.first_row[span + 1] - self.first_row[span]
        if self.slots is not None:
            return self.slots[span][:end]
        first = (self.first_slot or ())[span]
        return slice(first, first + end)


class HeadWeights(NamedTuple):
    """What draws a drafter's block left to right: logits plus W2·W1[previous] with w1 and w2 [V, r], None without a
    sequential head, and the confidence w·[h; W1[previous]] + b with w [d + r], or w [d] for one that reads h alone.
    """

    hidden_size: int
    vocab_size: int
    w1: Tensor | None
    w2: Tensor | None
    confidence: Tensor
    confidence_bias: float
