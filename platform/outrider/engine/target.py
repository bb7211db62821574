"""The target model: stock `transformers` weights, a flat forward over paged memory, and taps for the drafter.

Shapes: B flat tokens of a step, n logit rows wanted, V vocabulary, m tapped layers, d hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from outrider.drafter.projection import FeatureProjection
from outrider.engine.attention import ATTENTION_NAME, PagedBatch, Span
from outrider.engine.cache import PagedCache
from outrider.engine.compiled import CompiledQwen3
from outrider.engine.qwen3 import FlatQwen3
from outrider.engine.stock import StockBackbone
from outrider.errors import ModelDirectoryError
from outrider.scheduling import Calibration
from outrider_kernels import Linear, packed_linear, plain_linear

__all__ = ["FlatBatch", "TargetModel"]

_FAMILIES = ("qwen3",)


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """One step's tokens: token_ids and positions int64 [B], the spans they form, and the rows logits are wanted of."""

    token_ids: Tensor
    positions: Tensor
    spans: tuple[Span, ...]
    logit_rows: Tensor | None


class TargetModel:
    """A causal language model from a local directory that computes flat batches against a `PagedCache`."""

    def __init__(
        self,
        model: Any,
        eos_token_ids: tuple[int, ...],
        projection: FeatureProjection | None,
        *,
        calibration: Calibration | None = None,
        stock: bool = False,
        compiled: bool = True,
    ) -> None:
        config = model.config
        self._head: Linear = (plain_linear if stock else packed_linear)(model.lm_head.weight.detach())
        self.projection = projection
        self.calibration = calibration
        self.eos_token_ids = eos_token_ids
        self.vocab_size: int = config.vocab_size
        self.hidden_size: int = config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.context_tokens: int = config.max_position_embeddings
        self.kv_heads: int = config.num_key_value_heads
        self.query_groups: int = config.num_attention_heads // config.num_key_value_heads
        self.head_dim: int = config.head_dim
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        layer_ids = projection.layer_ids if projection else ()
        use_stock = stock or not FlatQwen3.fits(model)
        self._flat: StockBackbone | FlatQwen3 = (StockBackbone if use_stock else FlatQwen3)(model, layer_ids)
        compiles = compiled and not use_stock and CompiledQwen3.fits(model)
        self.compiled = CompiledQwen3(model, projection) if compiles else None

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
        config = _read_config(directory)
        projection = calibration = None
        if drafter is not None:
            projection = FeatureProjection.load(
                drafter,
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                num_layers=config.num_hidden_layers,
                context_tokens=config.max_position_embeddings,
                dtype=dtype,
            ).to(torch.device(device))
            calibration = Calibration.find(drafter, projection.block_size)
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                directory,
                config=config,
                dtype=dtype,
                attn_implementation=ATTENTION_NAME,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelDirectoryError(f"model {directory.name}: weights do not load: {reason}") from error
        if report["missing_keys"]:  # transformers would go on with random ones
            raise ModelDirectoryError(f"model {directory.name} has no tensor {min(report['missing_keys'])}")
        ends = _eos_token_ids(directory, config)
        return cls(model.to(device).eval(), ends, projection, calibration=calibration, stock=stock, compiled=compiled)

    def new_cache(self, blocks: int, block_size: int) -> PagedCache:
        """Empty paged memory of this model's shape."""
        return PagedCache.empty(
            blocks=blocks,
            block_size=block_size,
            layers=self.num_layers,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
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
        paged = PagedBatch.of(batch.spans, cache.kv, query_groups=self.query_groups)
        hidden, taps = self._flat(batch.token_ids, batch.positions, paged)
        if self.projection is not None and cache.features is not None:
            cache.features.index_copy_(0, paged.write, self.projection(torch.cat(taps, dim=-1)))
        if batch.logit_rows is None:
            return None
        wanted = hidden if len(batch.logit_rows) == len(hidden) else hidden.index_select(0, batch.logit_rows)
        logits: Tensor = self._head(wanted)
        return logits.float()


def _read_config(directory: Path) -> Any:
    if not directory.is_dir():
        raise ModelDirectoryError(f"model directory {directory} does not exist", param="directory")
    if not (directory / "config.json").is_file():
        raise ModelDirectoryError(f"model {directory.name} has no config.json", param="directory")
    if not any(directory.glob("*.safetensors")):
        raise ModelDirectoryError(f"model {directory.name} has no .safetensors weights", param="directory")
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelDirectoryError(f"model {directory.name}: config.json does not load: {reason}") from error
    if config.model_type not in _FAMILIES:
        raise ModelDirectoryError(
            f"model {directory.name} is of type {config.model_type!r}; served are: {', '.join(_FAMILIES)}",
            param="directory",
        )
    if any(kind != "full_attention" for kind in config.layer_types):
        raise ModelDirectoryError(f"model {directory.name} uses sliding-window layers, which are not served yet")
    return config


def _eos_token_ids(directory: Path, config: Any) -> tuple[int, ...]:
    """End tokens of generation_config.json, else of config.json."""
    value: int | Sequence[int] | None = config.eos_token_id
    generation = directory / "generation_config.json"
    if generation.is_file():
        try:
            value = json.loads(generation.read_text("utf-8")).get("eos_token_id", value)
        except ValueError as error:
            raise ModelDirectoryError(f"model {directory.name}: generation_config.json is not JSON: {error}") from None
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
