"""Attention of a step's flat tokens over paged keys and values: prefill chunks, decoding and verification in one call.

Shapes: B flat tokens, R requests, H query heads, K key/value heads, G = H / K, D head size, M blocks of a table's row.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from outrider_kernels.dispatch import UnsupportedArgument, check_tensor, use_triton
from outrider_kernels.ragged_attention import reference
from outrider_kernels.ragged_attention.rows import RaggedRows

__all__ = ["RaggedRows", "ragged_attention"]

_OP: Final = "ragged_attention"
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_INDICES: Final = (torch.int32,)
_LARGEST_HEAD: Final = 256
_MOST_GROUPS: Final = 64


def ragged_attention(
    query: Tensor,
    kv: Tensor,
    rows: RaggedRows,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """What the tokens' queries [B, H, D] find in kv [slots, 2, K, D], which already holds the tokens' own; [B, H, D].

    A token sees its request's positions up to its own, within a `window` only those less than that far back.
    `softcap` bounds the logits smoothly; sinks [H] are logits that take weight and give nothing. Softmax and sums are
    fp32. Padding tokens get zeros. Raises UnsupportedArgument.
    """
    _check(query, kv, rows, window, softcap, sinks)
    if use_triton(_OP, query.device):
        from outrider_kernels.ragged_attention import triton

        return triton.ragged_attention(query, kv, rows, scaling=scaling, window=window, softcap=softcap, sinks=sinks)
    return reference.ragged_attention(query, kv, rows, scaling=scaling, window=window, softcap=softcap, sinks=sinks)


def _check(
    query: Tensor, kv: Tensor, rows: RaggedRows, window: int | None, softcap: float | None, sinks: Tensor | None
) -> None:
    device = query.device
    check_tensor(_OP, "query", query, (None, None, None), _DTYPES)
    heads, head_dim = query.shape[1:]
    if not 1 <= head_dim <= _LARGEST_HEAD:
        raise UnsupportedArgument(_OP, "query", f"has heads of {head_dim}; 1 to {_LARGEST_HEAD} would do")
    check_tensor(_OP, "kv", kv, (None, 2, None, head_dim), (query.dtype,), device=device, contiguous=True)
    kv_heads = kv.shape[2]
    if not kv_heads or heads % kv_heads or not 1 <= heads // kv_heads <= _MOST_GROUPS:
        reason = f"has {kv_heads} heads for {heads} query heads; 1 to {_MOST_GROUPS} queries may share a head"
        raise UnsupportedArgument(_OP, "kv", reason)
    requests = rows.context.shape[0] if rows.context.ndim else 0
    check_tensor(_OP, "rows.context", rows.context, (requests,), _INDICES, device=device)
    check_tensor(_OP, "rows.query_start", rows.query_start, (requests + 1,), _INDICES, device=device)
    check_tensor(_OP, "rows.blocks", rows.blocks, (requests, None), _INDICES, device=device)
    if rows.block_size < 1 or rows.block_size & (rows.block_size - 1):
        raise UnsupportedArgument(_OP, "rows.block_size", f"is {rows.block_size}, not a power of two")
    if window is not None and window < 1:
        raise UnsupportedArgument(_OP, "window", f"is {window}; a token sees at least itself")
    if softcap is not None and softcap <= 0:
        raise UnsupportedArgument(_OP, "softcap", f"is {softcap}; it must be above zero")
    if sinks is not None:
        check_tensor(_OP, "sinks", sinks, (heads,), _DTYPES, device=device)
