"""A decoder whose attention is given from outside: what the draft backbone and a plain drafting model share.

Shapes: R requests, γ tokens of each, d hidden size, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outrider.drafter.decoder_config import DecoderConfig
from outrider.drafter.layers import Layer, LayerWeights, Scale, join, rope_tables, rotate
from outrider_kernels import packed_linear, plain_linear

__all__ = ["Decoder"]

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class Decoder(nn.Module):
    """Embeddings, layers and final norm; parameter names are the families', unprefixed."""

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.geometry = config.geometry
        self._scale = self.geometry.scale or self.geometry.width**-0.5
        self._eps = config.rms_norm_eps
        self._activation = _ACTIVATIONS[self.geometry.activation]
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = Scale(config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self._joined: tuple[LayerWeights, ...] | None = None
        cos, sin = rope_tables(self.geometry, config.max_position_embeddings)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)

    def train(self, mode: bool = True) -> Self:
        self._forget_packed()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._forget_packed()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _forget_packed(self) -> None:
        """Weights are about to change, or to move."""
        self._joined = None

    def _decode(self, block_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The layers over R blocks; `attend(layer, q [R, γ, H, D], k [R, γ, K, D], v)` returns [R, γ, H·D]."""
        heads, groups, width = self.geometry.heads, self.geometry.groups, self.geometry.width
        requests, slots = block_ids.shape
        cos, sin = self._rope(positions)
        hidden = F.embedding(block_ids, self.embed_tokens.weight)
        if self.geometry.embedding_scale is not None:
            hidden = hidden * hidden.new_tensor(self.geometry.embedding_scale)  # rounded as the family rounds it
        for index, layer in enumerate(self._weights()):
            joined = layer.qkv(self._norm(hidden, layer.input_norm))
            joined = joined.view(requests, slots, heads + 2 * groups, width)
            rotated = rotate(self._norm(joined[:, :, : heads + groups], None) * layer.qk_scale, cos, sin)
            values = self._values(joined[:, :, heads + groups :])
            added = layer.output(attend(index, rotated[:, :, :heads], rotated[:, :, heads:], values))
            hidden = hidden + (added if layer.attention_added is None else self._norm(added, layer.attention_added))
            gate, up = layer.gate_up(self._norm(hidden, layer.mlp_norm)).chunk(2, dim=-1)
            added = layer.down(self._activation(gate) * up)
            hidden = hidden + (added if layer.mlp_added is None else self._norm(added, layer.mlp_added))
            if layer.scalar is not None:
                hidden = hidden * layer.scalar
        return self._norm(hidden, self.norm.weight)

    def _values(self, values: Tensor) -> Tensor:
        """Values [..., K, D] as attention reads them."""
        return self._norm(values, None) if self.geometry.sandwich else values

    def _norm(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        return torch.rms_norm(rows, rows.shape[-1:], weight, self._eps)

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos: Tensor = self.rope_cos[positions]
        sin: Tensor = self.rope_sin[positions]
        return cos.unsqueeze(-2), sin.unsqueeze(-2)

    def joined_layers(self) -> tuple[LayerWeights, ...]:
        """The layers' weights as a forward pass reads them, for one that is not this one."""
        return self._weights()

    def _weights(self) -> tuple[LayerWeights, ...]:
        """Joined weights: rebuilt with gradients in training, built and packed once in inference."""
        if self.training:
            return tuple(join(layer, self.geometry, plain_linear) for layer in self.layers)
        if self._joined is None:
            with torch.no_grad():
                self._joined = tuple(join(layer, self.geometry, packed_linear) for layer in self.layers)
        return self._joined
