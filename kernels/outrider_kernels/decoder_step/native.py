"""The decoder step in step.cpp: packing a stack's weights for it, and calling it.

Matrices lie in panels of 32 columns. One whose values are all bf16, as published checkpoints' are, is kept as bf16 and
widened in registers: the same arithmetic from half the bytes.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from outrider_kernels.decoder_step.weights import DecoderRows, DecoderWeights

__all__ = ["PACKED", "NativeStep", "native_fits", "packed", "pointer", "struct"]

_LANES = 16
_PANEL = 32
_HEAD_DIMS = (16, 32, 64, 128, 256)
_SHARED_PRODUCTS = 1 << 28
"""A step of fewer multiplications than this runs on one thread: its threads meet six times a layer, which cost two
busy cores more than they saved at 16 rows of 14 M weights and below."""


def struct(name: str, **fields: Any) -> type[Structure]:
    return type(name, (Structure,), {"_fields_": list(fields.items())})


_I = c_int64
_P = c_void_p
PACKED = struct("Packed", data=_P, columns=_I, depth=_I, is_bf16=_I)
_MATRICES = ("qkv", "out", "gate", "up", "down")
_NORMS = ("input_norm", "qk_norm", "post_norm")
_Layer = struct("Layer", **dict.fromkeys(_NORMS, _P), **dict.fromkeys(_MATRICES, PACKED))
_Model = struct(
    "Model",
    **dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "head_dim", "inner"), _I),
    **dict.fromkeys(("eps", "scaling", "rotation_scale", "projection_eps"), c_float),
    **dict.fromkeys(("embedding", "frequencies", "final_norm", "projection_norm"), _P),
    layer=POINTER(_Layer),
    head=PACKED,
    projection=PACKED,
    tapped=POINTER(_I),
    tapped_count=_I,
)
_Batch = struct(
    "Batch",
    **dict.fromkeys(("rows", "spans", "causal", "writes", "kv_stride", "wanted_rows"), _I),
    **dict.fromkeys(("token_ids", "positions"), _P),
    **dict.fromkeys(("first_row", "context", "first_slot"), POINTER(_I)),
    **dict.fromkeys(("slots", "keys", "values"), POINTER(_P)),
    **dict.fromkeys(("features", "wanted", "hidden", "logits"), _P),
)


def native_fits(weights: DecoderWeights) -> bool:
    """Whether step.cpp covers the stack: fp32 on the CPU, widths that fill vectors."""
    layer = weights.layers[0]
    widths = (weights.embedding.shape[1], layer.gate.shape[0])
    return (
        weights.embedding.device.type == "cpu"
        and weights.embedding.dtype == torch.float32
        and weights.head_dim in _HEAD_DIMS
        and all(width % _LANES == 0 for width in widths)
    )


class NativeStep:
    """One stack's packed weights and the call. One thread at a time uses it; the call releases the interpreter."""

    def __init__(self, library: ctypes.CDLL, weights: DecoderWeights) -> None:
        self.library = library
        self._kept: list[Any] = []
        self._hidden_size = weights.embedding.shape[1]
        self._vocab_size = weights.head.shape[0]
        layers = (_Layer * len(weights.layers))()
        for place, layer in zip(layers, weights.layers, strict=True):
            for name in _NORMS:
                setattr(place, name, pointer(self._kept, getattr(layer, name)))
            for name in _MATRICES:
                setattr(place, name, packed(self._kept, getattr(layer, name)))
        self.model = self._describe(weights, layers)
        self._products = weights.head.numel() + sum(m.numel() for layer in weights.layers for m in layer if m.ndim == 2)

    def _describe(self, weights: DecoderWeights, layers: Any) -> Structure:
        model: Any = _Model(
            layers=len(layers), hidden=self._hidden_size, heads=weights.heads, kv_heads=weights.kv_heads,
            head_dim=weights.head_dim, inner=weights.layers[0].gate.shape[0], eps=weights.eps, scaling=weights.scaling,
            rotation_scale=weights.rotation_scale, embedding=pointer(self._kept, weights.embedding),
            frequencies=pointer(self._kept, weights.frequencies), final_norm=pointer(self._kept, weights.final_norm),
            layer=layers, head=packed(self._kept, weights.head),
        )  # fmt: skip
        if weights.projection is not None:
            layer_ids, fc, norm, eps = weights.projection
            model.projection, model.projection_norm, model.projection_eps = (
                packed(self._kept, fc),
                pointer(self._kept, norm),
                eps,
            )
            model.tapped, model.tapped_count = _ints(layer_ids), len(layer_ids)
        result: Structure = model
        return result

    def __call__(self, rows: DecoderRows, *, hidden: bool = False, logits: bool = True) -> tuple[Tensor, Tensor]:
        """As `reference_step`; what is not asked for comes back empty."""
        count, spans = rows.wanted.shape[0], len(rows.context)
        final = torch.empty(count if hidden else 0, self._hidden_size)
        scores = torch.empty(count if logits else 0, self._vocab_size)
        batch = _Batch(
            rows=rows.token_ids.shape[0], spans=spans, causal=rows.causal, writes=rows.writes,
            kv_stride=rows.keys[0].stride(0), wanted_rows=count, token_ids=rows.token_ids.data_ptr(),
            positions=rows.positions.data_ptr(), first_row=_ints(rows.first_row), context=_ints(rows.context),
            first_slot=_ints(rows.first_slot or ()), slots=_pointers(rows.slots), keys=_pointers(rows.keys),
            values=_pointers(rows.values), features=None if rows.features is None else rows.features.data_ptr(),
            wanted=rows.wanted.data_ptr(), hidden=final.data_ptr() if hidden else None,
            logits=scores.data_ptr() if logits else None,
        )  # fmt: skip
        threads = self.threads(rows.token_ids.shape[0])
        self.library.outrider_step(ctypes.byref(self.model), ctypes.byref(batch), c_int(threads))
        return final, scores

    def threads(self, rows: int) -> int:
        """How many threads a step of so many rows is worth."""
        return torch.get_num_threads() if self._products * rows >= _SHARED_PRODUCTS else 1


def pointer(kept: list[Any], tensor: Tensor) -> int:
    """Its address; the tensor joins those kept alive."""
    held = tensor.detach().float().contiguous()
    kept.append(held)
    return held.data_ptr()


def packed(kept: list[Any], weight: Tensor) -> Structure:
    """The matrix [N, K] as panels [⌈N/32⌉, K, 32], bf16 columns in pairs (layout.h)."""
    columns, depth = weight.shape
    halves = weight.detach().to(torch.bfloat16)
    exact = torch.equal(halves.to(weight.dtype), weight)
    source = pad(halves if exact else weight.detach(), (0, 0, 0, -columns % _PANEL))
    panels = source.view(-1, _PANEL, depth).transpose(1, 2)
    if exact:
        panels = panels.reshape(*panels.shape[:2], 2, _LANES).transpose(2, 3)
    panels = panels.contiguous()
    kept.append(panels)
    return PACKED(data=panels.data_ptr(), columns=columns, depth=depth, is_bf16=exact)


def _ints(values: Any) -> Any:
    return (_I * len(values))(*values)


def _pointers(tensors: Any) -> Any:
    return None if tensors is None else (_P * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
