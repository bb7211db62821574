"""Block drawing at serving sizes: γ = 8 slots over Qwen3's vocabulary, a Markov head of rank 256, bf16.

Shapes: R rows, γ block size, V vocabulary, r Markov rank, d hidden size.

The slots follow each other, so that W2 (78 MB, more than a cache) has to be read once for each: `bytes` counts that, as
no order of work could avoid it. Of a race's `operations` only the noise's integer ones are counted. There is more: of
the 54 instructions of an element (sm_90, tiles that are not in doubt) 27 run on the pipe of integers, comparisons and
selections, half a warp a cycle, which at 1.755 GHz takes 143 µs where memory takes 163 µs of an H200. So memory bounds
it only as far as the two overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

import torch

from outrider_kernels.benching import Case, Variant
from outrider_kernels.draft_sampling import DrawRows, SequentialHead, draw_blocks

__all__ = ["cases", "code_variants"]

_GAMMA: Final = 8
_VOCAB: Final = 151_936
_RANK: Final = 256
_HIDDEN: Final = 4096
_NOISE: Final = 17
"""Integer instructions of one element's noise: two mixes of three shifts, three xors and two products each, a key."""

How = Literal["greedy", "coupled", "rejection"]


def _make(count: int, how: How, device: torch.device) -> Callable[[], object]:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    def column(value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((count,), value, dtype=dtype, device=device)

    hidden, base = normal(count, _GAMMA, _HIDDEN), normal(count, _GAMMA, _VOCAB)
    head = SequentialHead(
        normal(_VOCAB, _RANK), normal(_VOCAB, _RANK), normal(_HIDDEN + _RANK), torch.zeros((), device=device)
    )
    rows = DrawRows(
        column(0.0 if how == "greedy" else 1.0, torch.float32),
        torch.arange(count, device=device),
        column(0, torch.int64),
        column(1.0, torch.float32),
        column(0, torch.int64),
        column(0.0, torch.float32),
        column(3 if how == "rejection" else -1, torch.int64),
        random=how != "greedy",
        cuts=False,
        rejects=how == "rejection",
    )
    anchors, positions = torch.arange(count, device=device), torch.full((count,), 1000, device=device)
    width = 64 if how == "rejection" else 0
    return lambda: draw_blocks(hidden, base, anchors, positions, head, rows, width=width)


def cases() -> list[Case]:
    """Few rows and many, and what each way of drawing costs."""
    found = []
    hows: list[tuple[int, How]] = [(1, "coupled"), (16, "coupled"), (64, "coupled"), (64, "greedy"), (64, "rejection")]
    for count, how in hows:
        elements = count * _GAMMA * _VOCAB
        read = 2 * (elements + _GAMMA * _VOCAB * _RANK + count * _GAMMA * (_HIDDEN + _RANK))
        written = count * _GAMMA * (8 + 4) + (count * _GAMMA * 64 * 12 if how == "rejection" else 0)
        make = partial(_make, count, how)
        products = 2 * elements * _RANK
        work: dict[str, Any] = {"operations": products, "unit": "bf16"}
        if how == "coupled":
            work = {"operations": _NOISE * elements, "unit": "int32"}
        found.append(Case(f"{count} x {_GAMMA} x {_VOCAB}, {how}", make, read + written, **work))
    return found


def code_variants() -> list[Variant]:
    """The pass over the vocabulary for few rows and many, and how each draws."""
    from outrider_kernels.draft_sampling import triton

    integers = ("anchors", "cells", "positions", "seeds", "choices", "top_ks", "rounds")
    signature = dict.fromkeys(integers, "*i64") | dict.fromkeys(("base", "w1", "w2"), "*bf16")
    singles = ("temperatures", "top_ps", "min_ps", "part_top", "part_sum", "groups")
    signature |= dict.fromkeys(singles, "*fp32")
    unaligned = ("slot", "rows_count", "loops")
    signature |= dict.fromkeys(("base_r", "base_t", "vocab", *unaligned), "i32")
    signature["slack"] = "fp32"
    aligned = tuple(name for name in signature if name not in (*unaligned, "slack"))
    found = []
    for block_r, random, tops in ((64, True, False), (64, False, False), (64, True, True), (16, True, False)):
        constants: dict[str, object] = {
            "RANK": _RANK, "RANDOM": random, "TOPS": tops, "WIDEN": False,
            "BLOCK_R": block_r, "BLOCK_V": 64, "BLOCK_K": _RANK, "GROUP_V": triton.GROUP,
        }  # fmt: skip
        ordered = {name: signature.get(name, "constexpr") for name in triton.stream_kernel.arg_names}
        options = {"num_warps": 4, "num_stages": 2 if block_r == 64 else 3, "enable_fp_fusion": False}
        name = f"draft_sampling, {block_r} rows" + (", noise" if random else "") + (", best tokens" if tops else "")
        found.append(
            Variant(
                name, triton.stream_kernel, ordered, constants, aligned, options, elements=block_r * 64,
                tensor_cores=True, wide_loads=True,
            )
        )  # fmt: skip
    last = {
        "RANK": _RANK, "GAMMA": _GAMMA, "WANTED": 64, "GROUPS": 64, "GROUP_V": triton.GROUP, "CUTS": True,
        "REJECTS": True, "BLOCK_P": 512, "BLOCK_K": _RANK, "BLOCK_G": 16384, "BLOCK_W": 64, "CHUNK": 64,
    }  # fmt: skip
    signature |= {"chosen": "*i32", "found": "*i64", "q_tokens": "*i64", "q_probs": "*fp32", "parts": "i32"}
    ordered = {name: signature.get(name, "constexpr") for name in triton.narrow_kernel.arg_names}
    aligned = tuple(name for name in ordered if name in signature and name not in ("slot", "rows_count", "parts"))
    options = {"num_warps": 8, "enable_fp_fusion": False}
    found.append(Variant("draft_sampling, the best tokens", triton.narrow_kernel, ordered, last, aligned, options))
    return found
