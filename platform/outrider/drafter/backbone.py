"""The draft backbone: a small decoder, bidirectional inside a block, over all of the target's projected features.

Shapes: n rows, m tapped layers, d hidden size, L drafter layers, R requests, S context rows (padded), γ block size,
H query heads, K key/value heads, D head width. As in arXiv 2607.05147 the anchor sits at absolute position s, context
rows are positions 0…s−1 only, slot k (1-based) sits at s+k−1 and predicts s+k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor, nn

from outrider.drafter.config import DSparkConfig
from outrider.drafter.layers import (
    Layer,
    LayerWeights,
    Scale,
    fold_groups,
    join,
    rope_tables,
    rotate,
    unfold_groups,
)
from outrider_kernels import packed_linear, plain_linear

__all__ = ["DraftBackbone"]

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class DraftBackbone(nn.Module):
    """Embeddings, input projection and decoder layers; parameter names are DeepSpec's, unprefixed."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.config = config
        self._geometry = config.geometry
        self._scale = self._geometry.scale or self._geometry.width**-0.5
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.norm = Scale(width)
        self.hidden_norm = Scale(width)
        self.fc = nn.Linear(len(config.target_layer_ids) * width, width, bias=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self._joined: tuple[LayerWeights, ...] | None = None
        cos, sin = rope_tables(self._geometry, config.max_position_embeddings)
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

    # -- beside the target ---------------------------------------------------------------------------------------

    def project(self, features: Tensor) -> Tensor:
        """C = hidden_norm(fc(F)): rows [n, d] from concatenated tapped states [n, m·d]."""
        return self._norm(self.fc(features), self.hidden_norm.weight)

    # -- on the drafter ------------------------------------------------------------------------------------------

    def context_kv(self, rows: Tensor, positions: LongTensor | Tensor) -> tuple[Tensor, Tensor]:
        """Context keys (normed, rotated) and values of every layer, each [L, n, K, D].

        `rows` [n, d] are projected features of absolute `positions` [n]; no input norm is applied to them.
        """
        count, groups, width = rows.shape[0], self._geometry.groups, self._geometry.width
        cos, sin = self._rope(positions)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer in self._weights():
            pair = layer.context_kv(rows).view(count, 2, groups, width)
            keys.append(self._norm(pair[:, 0], None) * layer.qk_scale[-1])
            values.append(pair[:, 1])
        return rotate(torch.stack(keys), cos, sin), torch.stack(values)

    def backbone(
        self,
        block_ids: LongTensor | Tensor,
        positions: LongTensor | Tensor,
        ctx_k: Tensor,
        ctx_v: Tensor,
        ctx_len: LongTensor | Tensor,
    ) -> Tensor:
        """Normed hidden states [R, γ, d] of the blocks.

        `block_ids`, `positions` [R, γ]; `ctx_k`, `ctx_v` [L, R, S, K, D] of which the first `ctx_len` [R] rows count
        (padding may hold anything finite). Attention is bidirectional in the block and over all its context.
        """
        slots, span = block_ids.shape[1], ctx_k.shape[2]
        valid = torch.arange(span + slots, device=ctx_len.device)
        seen = (valid < ctx_len[:, None]) | (valid >= span)
        mask = seen[:, None, None, :]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys = torch.cat((ctx_k[layer], key), dim=1).transpose(1, 2)
            values = torch.cat((ctx_v[layer], value), dim=1).transpose(1, 2)
            folded = fold_groups(query, keys.shape[1])
            mixed = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=self._scale)
            return unfold_groups(mixed, slots)

        return self._decode(block_ids, positions, attend)

    def training_backbone(self, block_ids: Tensor, positions: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """`backbone` for many anchors of each sequence at once: [B, A, γ, d], gradients to the projected rows.

        `block_ids`, `positions` [B, A, γ] with the anchor first; `rows` [B, T, d] are projected features of positions
        0…T−1; `lengths` [B, A] says how many of them each block sees (its anchor's position).
        """
        batch, anchors, slots = block_ids.shape
        span = rows.shape[1]
        times = torch.arange(span, device=rows.device)
        keys, values = self.context_kv(rows.reshape(batch * span, -1), times.repeat(batch))
        hidden = torch.zeros((), dtype=rows.dtype, device=rows.device)
        future = hidden.new_full((), float("-inf"))
        mask = torch.where(times < lengths[..., None], hidden, future)  # [B, A, T]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            groups = key.shape[2]
            fold = query.shape[2] // groups
            rows_q = fold_groups(query, groups).view(batch, anchors, groups, fold * slots, -1)
            over_context = rows_q.transpose(1, 2).reshape(batch, groups, anchors * fold * slots, -1)
            ctx_k = keys[layer].view(batch, span, groups, -1).permute(0, 2, 3, 1)
            ctx_v = values[layer].view(batch, span, groups, -1).transpose(1, 2)
            far = (over_context @ ctx_k).view(batch, groups, anchors, fold * slots, span) * self._scale
            far = far + mask[:, None, :, None, :].to(far.dtype)
            near_k = key.view(batch, anchors, slots, groups, -1).permute(0, 3, 1, 4, 2)
            near = (rows_q.transpose(1, 2) @ near_k) * self._scale
            weights = torch.softmax(torch.cat((far, near), dim=-1), dim=-1, dtype=far.dtype)
            near_v = value.view(batch, anchors, slots, groups, -1).permute(0, 3, 1, 2, 4)
            mixed = weights[..., span:] @ near_v
            mixed = mixed + (weights[..., :span].reshape(batch, groups, anchors * fold * slots, span) @ ctx_v).view_as(
                mixed
            )
            return unfold_groups(mixed.transpose(1, 2).reshape(batch * anchors, groups, fold * slots, -1), slots)

        flat = self._decode(block_ids.flatten(0, 1), positions.flatten(0, 1), attend)
        return flat.view(batch, anchors, slots, -1)

    # -- shared by inference and training ------------------------------------------------------------------------

    def _decode(self, block_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The layers over R blocks; `attend(layer, q [R, γ, H, D], k [R, γ, K, D], v)` returns [R, γ, H·D]."""
        heads, groups, width = self._geometry.heads, self._geometry.groups, self._geometry.width
        requests, slots = block_ids.shape
        cos, sin = self._rope(positions)
        hidden = F.embedding(block_ids, self.embed_tokens.weight)
        for index, layer in enumerate(self._weights()):
            joined = layer.qkv(self._norm(hidden, layer.input_norm))
            joined = joined.view(requests, slots, heads + 2 * groups, width)
            rotated = rotate(self._norm(joined[:, :, : heads + groups], None) * layer.qk_scale, cos, sin)
            mixed = attend(index, rotated[:, :, :heads], rotated[:, :, heads:], joined[:, :, heads + groups :])
            hidden = hidden + layer.output(mixed)
            gate, up = layer.gate_up(self._norm(hidden, layer.mlp_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(F.silu(gate) * up)
        return self._norm(hidden, self.norm.weight)

    def _norm(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        return torch.rms_norm(rows, rows.shape[-1:], weight, self.config.rms_norm_eps)

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos: Tensor = self.rope_cos[positions]  # type: ignore[index]
        sin: Tensor = self.rope_sin[positions]  # type: ignore[index]
        return cos.unsqueeze(-2), sin.unsqueeze(-2)

    def _weights(self) -> tuple[LayerWeights, ...]:
        """Joined weights: rebuilt with gradients in training, built and packed once in inference."""
        if self.training:
            return tuple(join(layer, self._geometry, plain_linear) for layer in self.layers)
        if self._joined is None:
            with torch.no_grad():
                self._joined = tuple(join(layer, self._geometry, packed_linear) for layer in self.layers)
        return self._joined
