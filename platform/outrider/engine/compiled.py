"""A Qwen3 target's whole step as one compiled call, in place of the flat eager one as soon as it is there.

The eager path stays the reference: same weights, same memory, parity-tested. What it lacks is left to eager:
other dtypes than fp32, other devices than the CPU, rotations whose frequencies change with the length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from outrider.drafter.projection import FeatureProjection
from outrider.engine.cache import PagedCache
from outrider_kernels import DecoderLayer, DecoderRows, DecoderWeights, PendingStep, Projection

__all__ = ["CompiledQwen3"]

_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")


class CompiledQwen3:
    """Compiles in the background; `ready` says whether it may be called yet."""

    def __init__(self, model: Any, projection: FeatureProjection | None) -> None:
        self.pending = PendingStep(lambda: _weights(model, projection))
        self._planes: tuple[list[Tensor], list[Tensor], list[Tensor]] | None = None

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model that `FlatQwen3` fits is one for this path, too."""
        rotary = model.model.rotary_emb
        return model.device.type == "cpu" and model.dtype == torch.float32 and rotary.rope_type in _FIXED_ROTATIONS

    @property
    def ready(self) -> bool:
        """False while compiling, and for good where this machine cannot."""
        return self.pending.step is not None

    def __call__(self, batch: Any, cache: PagedCache) -> Tensor | None:
        """As `TargetModel.forward`; only when ready."""
        step = self.pending.step
        assert step is not None
        first_row = [0]
        for span in batch.spans:
            first_row.append(first_row[-1] + span.length)
        keys, values = self._views(cache)
        rows = DecoderRows(
            token_ids=batch.token_ids,
            positions=batch.positions,
            first_row=first_row,
            context=[span.start for span in batch.spans],
            keys=keys,
            values=values,
            wanted=batch.token_ids[:0] if batch.logit_rows is None else batch.logit_rows,
            slots=[span.slots for span in batch.spans],
            features=cache.features,
        )
        logits = step(rows)[1]
        return None if batch.logit_rows is None else logits

    def _views(self, cache: PagedCache) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values [slots, K, D] of every layer; made once per cache."""
        if self._planes is None or self._planes[0] is not cache.kv:
            self._planes = (cache.kv, [kv[:, 0] for kv in cache.kv], [kv[:, 1] for kv in cache.kv])
        return self._planes[1], self._planes[2]


@torch.no_grad()
def _weights(model: Any, projection: FeatureProjection | None) -> DecoderWeights:
    config, rotary = model.config, model.model.rotary_emb
    tapped = None
    if projection is not None:
        tapped = Projection(projection.layer_ids, projection.fc, projection.hidden_norm, projection.eps)
    return DecoderWeights(
        embedding=model.model.embed_tokens.weight,
        layers=tuple(
            DecoderLayer.of(layer, config.num_attention_heads, config.num_key_value_heads)
            for layer in model.model.layers
        ),
        final_norm=model.model.norm.weight,
        head=model.lm_head.weight,
        frequencies=rotary.inv_freq,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        eps=config.rms_norm_eps,
        scaling=model.model.layers[0].self_attn.scaling,
        rotation_scale=rotary.attention_scaling,
        projection=tapped,
    )
