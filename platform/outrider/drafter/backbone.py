"""The draft backbone: a small decoder, bidirectional inside a block, over all of the target's projected features.

Shapes: n rows, m tapped layers, d hidden size, L drafter layers, R requests, S context rows (padded), γ block size,
H query heads, K key/value heads, D head width. As in arXiv 2607.05147 the anchor sits at absolute position s, context
rows are positions 0…s−1 only, slot k (1-based) sits at s+k−1 and predicts s+k.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor, nn

from outrider.drafter.config import DSparkConfig
from outrider.drafter.decoder import Decoder
from outrider.drafter.layers import Scale, fold_groups, rotate, unfold_groups

__all__ = ["DraftBackbone"]


class DraftBackbone(Decoder):
    """A decoder over blocks with the projection of the target's features; parameter names are DeepSpec's."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__(config)
        self.config = config
        width = config.hidden_size
        self.hidden_norm = Scale(width)
        self.fc = nn.Linear(len(config.target_layer_ids) * width, width, bias=False)

    # -- beside the target ---------------------------------------------------------------------------------------

    def project(self, features: Tensor) -> Tensor:
        """C = hidden_norm(fc(F)): rows [n, d] from concatenated tapped states [n, m·d]."""
        return self._norm(self.fc(features), self.hidden_norm.weight)

    # -- on the drafter ------------------------------------------------------------------------------------------

    def context_kv(self, rows: Tensor, positions: LongTensor | Tensor) -> tuple[Tensor, Tensor]:
        """Context keys (normed, rotated) and values of every layer, each [L, n, K, D].

        `rows` [n, d] are projected features of absolute `positions` [n]; no input norm is applied to them.
        """
        count, groups, width = rows.shape[0], self.geometry.groups, self.geometry.width
        cos, sin = self._rope(positions)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer in self._weights():
            pair = layer.context_kv(rows).view(count, 2, groups, width)
            keys.append(self._norm(pair[:, 0], None) * layer.qk_scale[-1])
            values.append(self._values(pair[:, 1]))
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
