"""The family's own `transformers` forward over flat batches: the reference path, for every family."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from outrider.engine.attention import PagedBatch

__all__ = ["StockModel"]


class StockModel:
    """Runs a model as it is, through the attention interface, with hooks on the tapped layers (−1: embedding)."""

    def __init__(self, model: Any, layer_ids: tuple[int, ...]) -> None:
        self._model = model
        self._taps: list[Tensor] = [Tensor()] * len(layer_ids)
        for place, layer in enumerate(layer_ids):
            self._tap(_decoder_layers(model), place, layer)

    def _tap(self, layers: nn.ModuleList, place: int, layer: int) -> None:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            self._taps[place] = output[0] if isinstance(output, tuple) else output

        def keep_input(_module: nn.Module, args: Any) -> None:
            self._taps[place] = args[0]

        if layer == -1:
            layers[0].register_forward_pre_hook(keep_input)
        else:
            layers[layer].register_forward_hook(keep)

    def __call__(
        self, token_ids: Tensor, positions: Tensor, paged: PagedBatch, rows: Tensor | None
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Logits [n, V] of the wanted rows, None when there are none, and the tapped layers' outputs, each [B, d].

        Logits are the family's own: whatever it does with scales, caps and biases of its head.
        """
        inputs = {"input_ids": token_ids[None], "position_ids": positions[None], "use_cache": False, "paged": paged}
        logits: Tensor | None = None
        if rows is None:
            self._model.base_model(**inputs)
        else:
            logits = self._model(**inputs, logits_to_keep=rows).logits[0]
        return logits, [tap[0] for tap in self._taps]


def _decoder_layers(model: Any) -> nn.ModuleList:
    """The list of decoder layers, whatever the family calls it."""
    count = model.config.num_hidden_layers
    lists = [child for child in model.base_model.children() if isinstance(child, nn.ModuleList) and len(child) == count]
    return lists[0]
