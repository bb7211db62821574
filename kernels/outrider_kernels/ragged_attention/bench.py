"""Benchmark of ragged attention: decoding, verification and prefill of a model of 32 query and 8 key/value heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch

from outrider_kernels.benching import Case, Variant
from outrider_kernels.ragged_attention import RaggedRows, ragged_attention
from outrider_kernels.ragged_attention.plan import Plan, plan_of

__all__ = ["cases", "code_variants"]

_HEADS: Final = 32
_KV_HEADS: Final = 8
_HEAD_DIM: Final = 128
_BLOCK_SIZE: Final = 16
_DTYPE: Final = torch.bfloat16

_UNIFORM: Final = [
    (requests, tokens, context)
    for requests in (8, 32, 128, 256)
    for tokens in (1, 8)
    for context in (1 << 10, 1 << 12, 1 << 15)
]


def cases() -> list[Case]:
    """Requests alike, of 1 or 8 tokens; of unequal contexts; and a prefill chunk beside decoding requests."""
    found = [_case(f"{r} x {t} tokens, {c} context", [(t, c)] * r) for r, t, c in _UNIFORM]
    found.append(_case("64 x 1 to 8 tokens, 1k to 16k context", [(1 + i % 8, 1024 * (1 + i % 16)) for i in range(64)]))
    found.append(_case("512-token chunk at 2k and 64 x 1 token, 4k context", [(512, 2048), *[(1, 4096)] * 64]))
    return found


def _case(name: str, requests: Sequence[tuple[int, int]]) -> Case:
    """`requests`: new tokens and context of each. Keys and values count once, however many tiles read them."""
    tokens = sum(length for length, _ in requests)
    positions = sum(length + context for length, context in requests)
    entries = sum(-(-(length + context) // _BLOCK_SIZE) for length, context in requests)
    row = _HEAD_DIM * _DTYPE.itemsize
    size = 2 * _KV_HEADS * row * positions + 2 * _HEADS * row * tokens + 4 * entries
    # two products, a multiply-add each, for every query head and position that a token sees; softmax is not counted
    seen = sum(length * context + length * (length + 1) // 2 for length, context in requests)
    return Case(name, partial(_make, requests), size, 4 * _HEADS * _HEAD_DIM * seen, "bf16")


def _rows(requests: Sequence[tuple[int, int]], device: torch.device) -> tuple[RaggedRows, int]:
    """The step, its blocks scattered over a cache of as many as it needs; and how many these are."""
    needed = [-(-(length + context) // _BLOCK_SIZE) for length, context in requests]
    shuffled = torch.randperm(sum(needed), dtype=torch.int32)
    table = torch.zeros(len(requests), max(needed), dtype=torch.int32)
    for row, own in zip(table, shuffled.split(needed), strict=True):
        row[: len(own)] = own
    starts = torch.tensor([0, *[length for length, _ in requests]]).cumsum(0).int()
    context = torch.tensor([context for _, context in requests], dtype=torch.int32)
    longest = max(length for length, _ in requests), max(length + context for length, context in requests)
    return RaggedRows(starts.to(device), context.to(device), table.to(device), _BLOCK_SIZE, *longest), sum(needed)


def _make(requests: Sequence[tuple[int, int]], device: torch.device) -> Callable[[], object]:
    rows, blocks = _rows(requests, device)
    tokens = sum(length for length, _ in requests)
    query = torch.randn(tokens, _HEADS, _HEAD_DIM, dtype=_DTYPE, device=device)
    kv = torch.empty(blocks * _BLOCK_SIZE, 2, _KV_HEADS, _HEAD_DIM, dtype=_DTYPE, device=device).normal_()
    return lambda: ragged_attention(query, kv, rows, scaling=_HEAD_DIM**-0.5)


def code_variants() -> list[Variant]:
    """What decoding, verification and prefill compile, with and without splits."""
    shapes = {
        "decode, split": [(1, 1 << 15)] * 8,
        "decode": [(1, 1 << 12)] * 256,
        "verify, split": [(8, 1 << 15)] * 8,
        "verify": [(8, 1 << 12)] * 128,
        "prefill": [(512, 2048), *[(1, 4096)] * 128],
    }
    return [_variant(name, requests) for name, requests in shapes.items()] + [_combine_variant()]


def _variant(name: str, requests: Sequence[tuple[int, int]]) -> Variant:
    from outrider_kernels.ragged_attention.triton import attention_kernel, launch_constants

    rows, _ = _rows(requests, torch.device("cpu"))
    plan: Plan = plan_of(
        rows,
        tokens=sum(length for length, _ in requests),
        heads=_HEADS,
        kv_heads=_KV_HEADS,
        head_dim=_HEAD_DIM,
        dtype=_DTYPE,
    )
    sums = "*fp32" if plan.splits > 1 else "*bf16"
    signature = {
        **dict.fromkeys(("query", "kv"), "*bf16"),
        **dict.fromkeys(("query_start", "context", "blocks"), "*i32"),
        **dict.fromkeys(("sinks", "out"), "*bf16"),
        **dict.fromkeys(("partial", "weights"), sums),
        **dict.fromkeys(("scale", "softcap"), "fp32"),
        **dict.fromkeys(("query_stride", "head_stride", "table_stride", "tokens", "requests"), "i32"),
    }
    constants = launch_constants(plan, heads=_HEADS, kv_heads=_KV_HEADS, head_dim=_HEAD_DIM, block_size=_BLOCK_SIZE)
    pointers = tuple(argument for argument, kind in signature.items() if kind.startswith("*"))
    return Variant(
        name,
        attention_kernel,
        {**signature, **dict.fromkeys(constants, "constexpr")},
        constants,
        (*pointers, "query_stride", "head_stride"),
        {"num_warps": plan.warps},
        elements=plan.columns * 2 * _HEAD_DIM,
        tensor_cores=True,
        wide_loads=True,
    )


def _combine_variant() -> Variant:
    from outrider_kernels.ragged_attention.triton import combine_kernel

    pointers = {"partial": "*fp32", "weights": "*fp32", "query_start": "*i32", "out": "*bf16"}
    constants = {"HEADS": _HEADS, "HEAD_DIM": _HEAD_DIM, "SPLITS": 16, "BLOCK": 16, "WIDTH": _HEAD_DIM}
    signature = {**pointers, "requests": "i32", **dict.fromkeys(constants, "constexpr")}
    return Variant("join", combine_kernel, signature, constants, tuple(pointers), {"num_warps": 4}, wide_loads=True)
