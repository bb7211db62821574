"""Block attention at serving sizes: Qwen3-8B's drafter, γ = 7, bf16.

Shapes: R requests, γ block size, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from outrider_kernels.benching import Case, Variant
from outrider_kernels.block_attention import block_attention

__all__ = ["cases", "code_variants"]

_GAMMA: Final = 7
_HEADS: Final = 32
_KV_HEADS: Final = 8
_WIDTH: Final = 128
_CAPACITY: Final = 4096


def _make(requests: int, length: int, device: torch.device) -> Callable[[], object]:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    own = (requests, _GAMMA)
    planes = [normal(requests, _CAPACITY, _KV_HEADS, _WIDTH) for _ in range(2)]
    query, key, value = (normal(*own, heads, _WIDTH) for heads in (_HEADS, _KV_HEADS, _KV_HEADS))
    slots = torch.arange(requests, device=device)
    lengths = torch.full((requests,), length, dtype=torch.int32, device=device)
    return lambda: block_attention(query, key, value, *planes, slots, lengths, scaling=_WIDTH**-0.5)


def cases() -> list[Case]:
    """Requests times positions that are cached."""
    found = []
    for requests, length in ((1, 512), (1, 4000), (16, 2000), (64, 1000), (64, 4000)):
        seen = length + _GAMMA
        values = requests * (2 * _GAMMA * _HEADS + 2 * seen * _KV_HEADS) * _WIDTH  # queries, answers, keys, values
        products = 2 * requests * _GAMMA * _HEADS * seen * _WIDTH  # each query with each key, each weight with a value
        make = partial(_make, requests, length)
        found.append(Case(f"{requests} x {_GAMMA} rows, context {length}", make, 2 * values, 2 * products, "bf16"))
    return found


def code_variants() -> list[Variant]:
    """Few queries of a key head, and many; whole contexts and shares of them."""
    from outrider_kernels.block_attention import triton

    signature = dict.fromkeys(("query", "key", "value", "context_keys", "context_values"), "*bf16")
    signature |= {"slots": "*i64", "lengths": "*i32", "out": "*bf16"}
    signature |= dict.fromkeys(("part_mixed", "part_best", "part_total"), "*fp32")
    signature |= {f"{name}_{dim}": "i32" for name in ("query", "key", "value") for dim in "rth"}
    signature |= {f"plane_{dim}": "i32" for dim in "sth"} | {"scale": "fp32", "window": "i32"}
    aligned = tuple(name for name in signature if name not in ("scale", "window"))
    found = []
    for groups, shares in ((4, 1), (4, 8), (8, 1)):
        block_m = 32 if groups == 4 else 64
        constants: dict[str, object] = {
            "KV_HEADS": _KV_HEADS, "GROUPS": groups, "GAMMA": _GAMMA, "WIDTH": _WIDTH, "SHARES": shares,
            "WINDOWED": False, "WIDEN": False, "BLOCK_M": block_m, "BLOCK_N": 64, "BLOCK_G": 16, "BLOCK_D": _WIDTH,
        }  # fmt: skip
        ordered = {name: signature.get(name, "constexpr") for name in triton.attend_kernel.arg_names}
        options = {"num_warps": 4, "num_stages": 3}
        name = f"block_attention, {groups} queries a head, {shares} shares"
        found.append(
            Variant(
                name, triton.attend_kernel, ordered, constants, aligned, options, elements=64 * _WIDTH,
                tensor_cores=True, wide_loads=True,
            )
        )  # fmt: skip
    return found
