"""Benchmark of the appends, at a model of 32 query and 8 key/value heads of 128 and a hidden size of 4096."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from outrider_kernels.benching import Case, Variant
from outrider_kernels.paged_append import append_rows, rotate_append

__all__ = ["cases", "code_variants"]

_HEADS: Final = 32
_KV_HEADS: Final = 8
_HEAD_DIM: Final = 128
_FEATURES: Final = 5 * 4096
_SLOTS: Final = 1 << 16
_DTYPE: Final = torch.bfloat16
_TOKENS: Final = (8, 256, 2048)


def cases() -> list[Case]:
    """Both appends: a decoding step, a verification of 32 requests, a prefill."""
    every = _HEADS + 2 * _KV_HEADS
    size = 2 * every * _HEAD_DIM * _DTYPE.itemsize + 16
    # of queries and keys, per element: square and sum 2, norm 2, rotation 3; of every half, cosine and sine of 30
    work = (_HEADS + _KV_HEADS) * _HEAD_DIM * 7 + _HEAD_DIM // 2 * 30
    rotated = [Case(f"rotate, {n} tokens", partial(_rotate, n), n * size, n * work, "fp32") for n in _TOKENS]
    width = 2 * _FEATURES * _DTYPE.itemsize + 8
    return rotated + [Case(f"features, {n} tokens", partial(_append, n), n * width, 0, "fp32") for n in _TOKENS]


def _rotate(tokens: int, device: torch.device) -> Callable[[], object]:
    qkv = torch.randn(tokens, (_HEADS + 2 * _KV_HEADS) * _HEAD_DIM, dtype=_DTYPE, device=device)
    kv = torch.zeros(_SLOTS, 2, _KV_HEADS, _HEAD_DIM, dtype=_DTYPE, device=device)
    norm = torch.ones(_HEAD_DIM, dtype=_DTYPE, device=device)
    frequencies = 1e6 ** -(torch.arange(_HEAD_DIM // 2, device=device) / (_HEAD_DIM // 2))
    positions = torch.randint(0, 1 << 15, (tokens,), device=device)
    slots = torch.randperm(_SLOTS, device=device)[:tokens]
    return lambda: rotate_append(
        qkv, positions, slots, kv, heads=_HEADS, kv_heads=_KV_HEADS, q_norm=norm, k_norm=norm, eps=1e-6,
        frequencies=frequencies,
    )  # fmt: skip


def _append(tokens: int, device: torch.device) -> Callable[[], object]:
    rows = torch.randn(tokens, _FEATURES, dtype=_DTYPE, device=device)
    plane = torch.zeros(4 * max(_TOKENS), _FEATURES, dtype=_DTYPE, device=device)
    slots = torch.randperm(len(plane), device=device)[:tokens]
    return lambda: append_rows(rows, plane, slots)


def code_variants() -> list[Variant]:
    """Both kernels at these sizes."""
    from outrider_kernels.paged_append.triton import HEADS_AT_ONCE, TILE, append_kernel, rotate_append_kernel

    pointers = {
        **dict.fromkeys(("qkv",), "*bf16"),
        **dict.fromkeys(("positions", "slots"), "*i64"),
        **dict.fromkeys(("kv", "query", "q_norm", "k_norm"), "*bf16"),
        "frequencies": "*fp32",
    }
    half = _HEAD_DIM // 2
    constants: dict[str, object] = {"HEADS": _HEADS, "KV_HEADS": _KV_HEADS, "HALF": half, "NORM": True}
    constants |= {"AT_ONCE": HEADS_AT_ONCE, "BLOCK": half}
    scalars = {"qkv_stride": "i32", "eps": "fp32", "rotation_scale": "fp32"}
    signature = {**pointers, **scalars, **dict.fromkeys(constants, "constexpr")}
    rotate = Variant(
        "rotate", rotate_append_kernel, signature, constants, (*pointers, "qkv_stride"), {"num_warps": 1},
        elements=HEADS_AT_ONCE * _HEAD_DIM, wide_loads=True,
    )  # fmt: skip
    strides = ("rows_stride", "plane_stride", "width")
    arguments = {"rows": "*bf16", "plane": "*bf16", "slots": "*i64", **dict.fromkeys(strides, "i32")}
    append = Variant(
        "features", append_kernel, {**arguments, "BLOCK": "constexpr"}, {"BLOCK": TILE}, tuple(arguments),
        {"num_warps": 4}, elements=TILE, wide_loads=True,
    )  # fmt: skip
    return [rotate, append]
