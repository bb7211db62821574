"""A flat forward of Qwen3 from a stock model's weights, with fewer and larger operations.

Why it exists: on two CPU cores a stock step of a 6 M model spends twice as long between matrix products as in them
(about 70 operations a layer; 24 here). Projections that read the same rows are joined, both head norms and both
rotations run on queries and keys at once, products read packed weights. Parity with the stock path is
tested; `TargetModel.load(stock=True)` keeps to the latter.

Shapes: B flat tokens, d hidden size, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from outrider.engine.attention import PagedBatch, attend
from outrider_kernels import Linear, packed_linear

__all__ = ["FlatQwen3", "Qwen3Layer"]


class Qwen3Layer(NamedTuple):
    """Norm weights and products of one layer; qk_norm [H + K, D], queries first."""

    input_norm: Tensor
    qkv: Linear
    qk_norm: Tensor
    out: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear


class FlatQwen3:
    """Backbone of a `Qwen3ForCausalLM`: token ids and positions to final hidden states and tapped ones."""

    def __init__(self, model: Any, layer_ids: tuple[int, ...]) -> None:
        config = model.config
        self.embedding: Tensor = model.model.embed_tokens.weight
        self.layers = [_join(layer, config) for layer in model.model.layers]
        self.final_norm: Tensor = model.model.norm.weight
        self.eps: float = config.rms_norm_eps
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.scaling: float = model.model.layers[0].self_attn.scaling
        self._rotary = model.model.rotary_emb
        self._layer_ids = layer_ids

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model is a Qwen3 without what this path leaves out (windows, biases, other activations)."""
        config = model.config
        return bool(
            config.model_type == "qwen3"
            and set(config.layer_types) == {"full_attention"}
            and not config.attention_bias
            and config.hidden_act in ("silu", "swish")
        )

    def __call__(self, token_ids: Tensor, positions: Tensor, paged: PagedBatch) -> tuple[Tensor, list[Tensor]]:
        """Final hidden states after the norm [B, d], and the tapped layers' outputs, each [B, d]."""
        hidden = torch.embedding(self.embedding, token_ids)
        cos, sin = self._rotation(hidden, positions)
        outputs = {-1: hidden} if -1 in self._layer_ids else {}
        for number, layer in enumerate(self.layers):
            hidden = self._layer(layer, hidden, cos, sin, paged, paged.kv[number])
            if number in self._layer_ids:
                outputs[number] = hidden
        final = torch.rms_norm(hidden, self.final_norm.shape, self.final_norm, self.eps)
        return final, [outputs[layer] for layer in self._layer_ids]

    def _rotation(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [B, 1, D] as the stock module gives them; sin's first half negated, for a rotation by roll."""
        cos, sin = self._rotary(hidden, positions[None])
        half = sin.shape[-1] // 2
        signed = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
        return cos[0][:, None], signed[:, None]

    def _layer(
        self, layer: Qwen3Layer, hidden: Tensor, cos: Tensor, sin: Tensor, paged: PagedBatch, kv: Tensor
    ) -> Tensor:
        tokens, heads, both = hidden.shape[0], self.heads, self.heads + self.kv_heads
        rows = torch.rms_norm(hidden, layer.input_norm.shape, layer.input_norm, self.eps)
        qkv = layer.qkv(rows).view(tokens, both + self.kv_heads, -1)
        head_dim = qkv.shape[-1]
        qk = torch.rms_norm(qkv[:, :both], (head_dim,), None, self.eps) * layer.qk_norm
        qk = torch.addcmul(qk * cos, torch.roll(qk, head_dim // 2, dims=-1), sin)
        new = torch.cat((qk[:, heads:], qkv[:, both:]), dim=1).view(tokens, 2, self.kv_heads, head_dim)
        mixed = attend(qk[:, :heads], new, kv, paged, self.scaling)
        hidden = hidden + layer.out(mixed.reshape(tokens, -1))
        rows = torch.rms_norm(hidden, layer.post_norm.shape, layer.post_norm, self.eps)
        gate, up = layer.gate_up(rows).chunk(2, dim=-1)
        return hidden + layer.down(silu(gate).mul_(up))


def _join(layer: Any, config: Any) -> Qwen3Layer:
    """One stock layer's weights with those that share an input joined."""
    attention, mlp = layer.self_attn, layer.mlp
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    norms = (attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(kv_heads, -1))
    return Qwen3Layer(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=packed_linear(_share(attention.q_proj, attention.k_proj, attention.v_proj)),
        qk_norm=torch.cat(norms).detach(),
        out=packed_linear(attention.o_proj.weight.detach()),
        post_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=packed_linear(_share(mlp.gate_proj, mlp.up_proj)),
        down=packed_linear(mlp.down_proj.weight.detach()),
    )


def _share(*projections: Any) -> Tensor:
    """The projections' weights in one tensor, of which each keeps its part: joined once, stored once."""
    joined = torch.cat([projection.weight.detach() for projection in projections])
    pieces = torch.split(joined, [projection.weight.shape[0] for projection in projections])
    for projection, piece in zip(projections, pieces, strict=True):
        projection.weight.data = piece
    return joined
