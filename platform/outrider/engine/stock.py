"""The stock `transformers` backbone over flat batches: the reference path, for every family."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from outrider.engine.attention import PagedBatch

__all__ = ["StockBackbone"]


class StockBackbone:
    """Runs `model.model` as it is, through the attention interface, with hooks on the tapped layers (−1: embedding)."""

    def __init__(self, model: Any, layer_ids: tuple[int, ...]) -> None:
        self._backbone: nn.Module = model.model
        # A mask per layer type, all None, keeps the model from building masks it would not use.
        self._masks = dict.fromkeys(model.config.layer_types)
        self._taps: list[Tensor] = [Tensor()] * len(layer_ids)
        for place, layer in enumerate(layer_ids):
            self._tap(model.model.layers, place, layer)

    def _tap(self, layers: Any, place: int, layer: int) -> None:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            self._taps[place] = output[0] if isinstance(output, tuple) else output

        def keep_input(_module: nn.Module, args: Any) -> None:
            self._taps[place] = args[0]

        if layer == -1:
            layers[0].register_forward_pre_hook(keep_input)
        else:
            layers[layer].register_forward_hook(keep)

    def __call__(self, token_ids: Tensor, positions: Tensor, paged: PagedBatch) -> tuple[Tensor, list[Tensor]]:
        """Final hidden states after the norm [B, d], and the tapped layers' outputs, each [B, d]."""
        hidden = self._backbone(
            input_ids=token_ids[None],
            position_ids=positions[None],
            attention_mask=self._masks,
            use_cache=False,
            paged=paged,
        ).last_hidden_state[0]
        return hidden, [tap[0] for tap in self._taps]
