"""A Qwen3 step over block tables: flat tokens in, logits out, with nothing that depends on a value on the device.

About ten launches a layer: two norms joined with the additions before them, four products, and one kernel each for
rotating and storing keys, attention and the gated activation. Parity with the eager path is tested.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from outrider.drafter.projection import FeatureProjection
from outrider.engine.cache import PagedCache
from outrider.engine.device.layout import DeviceBatch
from outrider.engine.qwen3 import FlatQwen3
from outrider_kernels import Linear
from outrider_kernels.paged_append import append_rows, rotate_append
from outrider_kernels.ragged_attention import ragged_attention
from outrider_kernels.row_ops import add_norm, silu_mul

__all__ = ["PagedQwen3"]

_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")


class PagedQwen3:
    """Reads the weights of a `FlatQwen3`; holds none of its own."""

    def __init__(self, flat: FlatQwen3, head: Linear, model: Any, projection: FeatureProjection | None) -> None:
        self._flat = flat
        self._head = head
        self._projection = projection
        self._frequencies: Tensor = model.model.rotary_emb.inv_freq.float()
        self._rotation_scale = float(model.model.rotary_emb.attention_scaling)
        self._norms = [layer.input_norm for layer in flat.layers[1:]] + [flat.final_norm]

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model that `FlatQwen3` fits is one for this path: its rotation does not change with the length."""
        return model.model.rotary_emb.rope_type in _FIXED_ROTATIONS

    def __call__(self, batch: DeviceBatch, cache: PagedCache) -> Tensor:
        """Logits [N, V] in the model's dtype; keys, values and drafter rows of all real tokens go to their slots."""
        flat, eps, tapped = self._flat, self._flat.eps, self._projection.layer_ids if self._projection else ()
        hidden = torch.embedding(flat.embedding, batch.token_ids)
        outputs = {-1: hidden} if -1 in tapped else {}
        hidden, rows = add_norm(hidden, None, flat.layers[0].input_norm, eps)
        for number, (layer, next_norm) in enumerate(zip(flat.layers, self._norms, strict=True)):
            kv = cache.kv[number]
            query = rotate_append(
                layer.qkv(rows),
                batch.positions,
                batch.slots,
                kv,
                heads=flat.heads,
                kv_heads=flat.kv_heads,
                q_norm=layer.qk_norm[0],
                k_norm=layer.qk_norm[-1],
                eps=eps,
                frequencies=self._frequencies,
                rotation_scale=self._rotation_scale,
            )
            mixed = ragged_attention(query, kv, batch.rows, scaling=flat.scaling)
            hidden, rows = add_norm(hidden, layer.out(mixed.flatten(1)), layer.post_norm, eps)
            hidden, rows = add_norm(hidden, layer.down(silu_mul(layer.gate_up(rows))), next_norm, eps)
            if number in tapped:
                outputs[number] = hidden
        if self._projection is not None and cache.features is not None:
            joined = torch.cat([outputs[layer] for layer in tapped], dim=-1)
            append_rows(self._projection(joined), cache.features, batch.slots)
        return self._head(rows.index_select(0, batch.logit_rows))
