"""The target model: stock `transformers` weights, a flat forward over paged memory, and taps for the drafter.

Shapes: B flat tokens of a step, n logit rows wanted, V vocabulary, m tapped layers, d hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outrider.drafter.projection import FeatureProjection
from outrider.engine.attention import PagedBatch
from outrider.engine.batch import FlatBatch
from outrider.engine.cache import PagedCache
from outrider.engine.capability import learn_shape
from outrider.engine.compiled import CompiledQwen3
from outrider.engine.device.layout import from_spans
from outrider.engine.device.paged import PagedQwen3
from outrider.engine.directory import context_tokens, end_tokens, read_config, read_weights
from outrider.engine.parity import CHECKED_TOKENS, check_forward
from outrider.engine.qwen3 import FlatQwen3
from outrider.engine.stock import StockModel
from outrider.scheduling import Calibration
from outrider_kernels import Linear, packed_linear

__all__ = ["FlatBatch", "TargetModel", "is_power_of_two"]


def is_power_of_two(size: int) -> bool:
    """Whether block tables of such blocks are read by kernels."""
    return size > 0 and size & (size - 1) == 0


class TargetModel:
    """A causal language model from a local directory that computes flat batches against a `PagedCache`."""

    def __init__(
        self,
        model: Any,
        name: str,
        eos_token_ids: tuple[int, ...],
        projection: FeatureProjection | None,
        *,
        calibration: Calibration | None = None,
        stock: bool = False,
        compiled: bool = True,
    ) -> None:
        config = model.config
        self.projection = projection
        self.calibration = calibration
        self.eos_token_ids = eos_token_ids
        self.directory: Path | None = None
        self.vocab_size: int = config.vocab_size
        self.hidden_size: int = config.hidden_size
        self.context_tokens: int = context_tokens(config)
        self.attention = learn_shape(model, name)
        self.num_layers: int = config.num_hidden_layers
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        layer_ids = projection.layer_ids if projection else ()
        self._flat: StockModel | FlatQwen3
        self.compiled: CompiledQwen3 | None = None
        self.paged: PagedQwen3 | None = None
        flat = not stock and FlatQwen3.fits(model)
        if flat:
            self._flat = FlatQwen3(model, layer_ids)
            self._head: Linear = packed_linear(model.lm_head.weight.detach())
            if PagedQwen3.fits(model):
                self.paged = PagedQwen3(self._flat, self._head, model, projection)
        else:
            self._flat = StockModel(model, layer_ids)
        block_size = min(CHECKED_TOKENS, self.context_tokens)
        check_forward(self.forward, self.new_cache(2, block_size), model, name)
        if compiled and flat and CompiledQwen3.fits(model):
            self.compiled = CompiledQwen3(model, projection)

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        drafter: Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        stock: bool = False,
        compiled: bool = True,
    ) -> TargetModel:
        """Load a model directory, and with `drafter` the projection its drafter reads and its calibration, if any.

        `stock` runs the family's own `transformers` forward even where there is a flat one of ours; `compiled` lets a
        step compiled in the background take over where there is one.

        Raises ModelDirectoryError for a missing, incomplete or unsupported directory, DrafterMismatch for a drafter
        that was not made for this target.
        """
        config = read_config(directory)
        projection = calibration = None
        if drafter is not None:
            projection = FeatureProjection.load(
                drafter,
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                num_layers=config.num_hidden_layers,
                context_tokens=context_tokens(config),
                dtype=dtype,
            ).to(torch.device(device))
            calibration = Calibration.find(drafter, projection.block_size)
        model = read_weights(directory, config, dtype).to(device).eval()
        ends = end_tokens(directory, config)
        target = cls(model, directory.name, ends, projection, calibration=calibration, stock=stock, compiled=compiled)
        target.directory = directory
        return target

    @property
    def step_kind(self) -> str:
        """Which forward runs at present: a step-cost curve holds for the kind it was measured with."""
        return "compiled" if self.compiled is not None and self.compiled.ready else type(self._flat).__name__

    def settle(self) -> None:
        """Wait until it is known whether a compiled step takes over. Never called while serving."""
        if self.compiled is not None:
            self.compiled.pending.wait()

    def new_cache(self, blocks: int, block_size: int) -> PagedCache:
        """Empty paged memory of this model's shape."""
        return PagedCache.empty(
            blocks=blocks,
            block_size=block_size,
            layers=self.attention.layers,
            kv_heads=self.attention.kv_heads,
            head_dim=self.attention.head_dim,
            feature_size=self.hidden_size if self.projection else None,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def forward(self, batch: FlatBatch, cache: PagedCache) -> Tensor | None:
        """One step: writes keys, values and drafter rows of all B tokens to the cache, returns logits fp32 [n, V].

        None when no logit rows were asked for.
        """
        if self.compiled is not None and self.compiled.ready:
            return self.compiled(batch, cache)
        shape = self.attention
        logits: Tensor | None
        on_gpu = self.device.type == "cuda" and is_power_of_two(cache.block_size)
        if on_gpu and self.paged is not None:
            logits = self.paged(from_spans(batch, cache.block_size), cache)
            return None if batch.logit_rows is None else logits.float()
        paged = PagedBatch.of(
            batch.spans,
            cache.kv,
            query_groups=shape.query_groups,
            windows=shape.windows,
            block_size=cache.block_size if on_gpu else None,
        )
        rows = batch.logit_rows
        if isinstance(self._flat, StockModel):
            logits, taps = self._flat(batch.token_ids, batch.positions, paged, rows)
        else:
            hidden, taps = self._flat(batch.token_ids, batch.positions, paged)
            logits = None
            if rows is not None:
                logits = self._head(hidden if len(rows) == len(hidden) else hidden.index_select(0, rows))
        if self.projection is not None and cache.features is not None:
            cache.features.index_copy_(0, paged.write, self.projection(torch.cat(taps, dim=-1)))
        return None if logits is None else logits.float()
