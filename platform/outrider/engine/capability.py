"""What a loaded model's attention really is, asked of the model itself, and whether the flat forward computes it.

Configurations differ in what they call things and in what they leave out. So the model runs once with an attention
that looks at what each layer hands over, and its masks are asked which distances they show. No list of family names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from outrider.engine.attention import ATTENTION_NAME
from outrider.errors import ModelDirectoryError

__all__ = ["AttentionShape", "learn_shape", "own_logits"]

_PROBE_NAME = "outrider_probe"
_FAR = 1 << 24
"""A distance no context reaches."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What paged attention and its cache must know: sizes shared by all layers, and the windows of sliding ones."""

    layers: int
    kv_heads: int
    query_groups: int
    head_dim: int
    windows: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """One call of the attention interface: layer, query, key and value [heads, size], window (0: none, −1: unclear)."""

    layer: int | None
    query: tuple[int, int]
    key: tuple[int, int]
    value: tuple[int, int]
    window: int


def learn_shape(model: Any, name: str) -> AttentionShape:
    """Run the model once on one token and read off its attention.

    Raises ModelDirectoryError when a layer has no softmax attention of the one shape and kind that is served.
    """
    seen: list[_Seen] = []
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    try:
        with torch.inference_mode(), _attending(model, _PROBE_NAME):
            model(input_ids=token, position_ids=token, use_cache=False, probe=seen)
    except Exception as error:  # whatever a family's forward raises
        raise _refused(model, name, f"does not run through the attention interface: {_reason(error)}") from error
    layers = model.config.num_hidden_layers
    if [call.layer for call in seen] != list(range(layers)):
        raise _refused(
            model, name, f"calls softmax attention {len(seen)} times in {layers} layers; served is every layer once"
        )
    first = seen[0]
    (heads, head_dim), kv_heads = first.query, first.key[0]
    for call in seen:
        if call.key != call.value:
            reason = f"has keys {list(call.key)} and values {list(call.value)} (heads, size) in layer {call.layer}"
            raise _refused(
                model, name, f"{reason}; the cache holds both in one shape, so latent attention does not fit"
            )
        if (call.query, call.key) != (first.query, first.key):
            raise _refused(model, name, f"has heads of another number or size in layer {call.layer} than in layer 0")
        if call.window < 0:
            raise _refused(model, name, f"masks layer {call.layer} otherwise than causally or by one sliding window")
    windows = {call.layer: call.window for call in seen if call.layer is not None and call.window}
    return AttentionShape(layers, kv_heads, heads // kv_heads, head_dim, windows)


@torch.inference_mode()
def own_logits(model: Any, token_ids: Tensor) -> Tensor:
    """Logits fp32 [n, V] of one sequence by the model's own eager attention, without anything of ours."""
    with _attending(model, "eager"):
        logits: Tensor = model(input_ids=token_ids[None], use_cache=False).logits[0]
    return logits.float()


class _attending:
    """Within the block the model attends by the named implementation."""

    def __init__(self, model: Any, implementation: str) -> None:
        self._model, self._implementation = model, implementation

    def __enter__(self) -> None:
        self._model.set_attn_implementation(self._implementation)

    def __exit__(self, *_: object) -> None:
        self._model.set_attn_implementation(ATTENTION_NAME)


def _look(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    probe: list[_Seen],
    position_bias: object = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention of the probe: notes what the layer handed over and returns zeros of the right shape."""
    told = attention_mask is not None and attention_mask.dtype == torch.int64 and position_bias is None
    sizes = [(int(each.shape[1]), int(each.shape[3])) for each in (query, key, value)]
    window = int(attention_mask.flatten()[0]) if told and attention_mask is not None else -1
    probe.append(_Seen(getattr(module, "layer_idx", None), sizes[0], sizes[1], sizes[2], window))
    return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None


def _tell_window(
    *, q_length: int, kv_length: int, mask_function: Callable[..., Any], device: Any = "cpu", **_: object
) -> Tensor:
    """A mask that a layer can not use but hand over: int64, holding the sliding window, 0 for none, −1 for others."""
    return torch.full((1, 1, int(q_length), int(kv_length)), _window(mask_function), dtype=torch.int64, device=device)


def _window(mask: Callable[..., Any]) -> int:
    """The window of a mask function (batch, head, query position, key position), found by asking it."""

    def sees(query: int, distance: int) -> bool:
        zero = torch.tensor(0)
        return bool(mask(zero, zero, torch.tensor(query), torch.tensor(query - distance)))

    if not sees(_FAR, 0) or sees(_FAR, -1):
        return -1
    if sees(_FAR, _FAR):
        return 0
    near, far = 0, _FAR
    while far - near > 1:
        middle = (near + far) // 2
        near, far = (middle, far) if sees(_FAR, middle) else (near, middle)
    same_everywhere = all(sees(_FAR + shift, near) and not sees(_FAR + shift, far) for shift in range(1, 4))
    return far if same_everywhere else -1


def _refused(model: Any, name: str, reason: str) -> ModelDirectoryError:
    return ModelDirectoryError(f"model {name} of type {model.config.model_type!r} {reason}", param="directory")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


AttentionInterface.register(_PROBE_NAME, _look)
AttentionMaskInterface.register(_PROBE_NAME, _tell_window)
