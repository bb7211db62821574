"""Attention of a drafter's blocks: bidirectional inside a block, over all of its sequence's cached context.

Shapes: R requests, γ block size, H query heads, K key/value heads, D head size, S capacity of a slot.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from outrider_kernels.block_attention import reference
from outrider_kernels.dispatch import UnsupportedArgument, check_tensor, use_triton

__all__ = ["block_attention"]

_OP: Final = "block_attention"
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_LARGEST_HEAD: Final = 256
_MOST_ROWS: Final = 256
"""Queries that share a head's keys, G·γ: one program holds them all."""


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_keys: Tensor,
    context_values: Tensor,
    slots: Tensor,
    lengths: Tensor,
    *,
    scaling: float,
    window: int | None = None,
) -> Tensor:
    """What the blocks' queries [R, γ, H, D] find in context and block, [R, γ, H, D].

    key, value [R, γ, K, D] are the blocks' own, all visible to all of a block. Request r sees the first lengths[r]
    (int32) rows of slot slots[r] (int64) of context_keys and context_values [slots, S, K, D]; what lies beyond them is
    not read. Within a `window` row k of a block, which stands at lengths[r] + k, sees only context positions above
    lengths[r] + k − window. slots[r] < 0: no request, zeros. Softmax and sums are fp32. Raises UnsupportedArgument.
    """
    _check(query, key, value, context_keys, context_values, slots, lengths, window)
    arguments = (query, key, value, context_keys, context_values, slots, lengths)
    if use_triton(_OP, query.device):
        from outrider_kernels.block_attention import triton

        return triton.block_attention(*arguments, scaling=scaling, window=window)
    return reference.block_attention(*arguments, scaling=scaling, window=window)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_keys: Tensor,
    context_values: Tensor,
    slots: Tensor,
    lengths: Tensor,
    window: int | None,
) -> None:
    device, dtypes = query.device, (query.dtype,)
    check_tensor(_OP, "query", query, (None, None, None, None), _DTYPES)
    requests, gamma, heads, head_dim = query.shape
    if not 1 <= head_dim <= _LARGEST_HEAD:
        raise UnsupportedArgument(_OP, "query", f"has heads of {head_dim}; 1 to {_LARGEST_HEAD} would do")
    check_tensor(_OP, "key", key, (requests, gamma, None, head_dim), dtypes, device=device)
    kv_heads = key.shape[2]
    if not kv_heads or heads % kv_heads or not 1 <= heads // kv_heads * gamma <= _MOST_ROWS:
        reason = f"has {kv_heads} heads for {heads} query heads of {gamma} rows; 1 to {_MOST_ROWS} may share a head"
        raise UnsupportedArgument(_OP, "key", reason)
    check_tensor(_OP, "value", value, key.shape, dtypes, device=device)
    check_tensor(_OP, "context_keys", context_keys, (None, None, kv_heads, head_dim), dtypes, device=device)
    check_tensor(_OP, "context_values", context_values, context_keys.shape, dtypes, device=device)
    if not context_keys.shape[0]:
        raise UnsupportedArgument(_OP, "context_keys", "has no slots")
    if context_values.stride() != context_keys.stride():
        reason = f"has strides {list(context_values.stride())}, context_keys {list(context_keys.stride())}"
        raise UnsupportedArgument(_OP, "context_values", reason)
    check_tensor(_OP, "slots", slots, (requests,), (torch.int64,), device=device)
    check_tensor(_OP, "lengths", lengths, (requests,), (torch.int32,), device=device)
    if window is not None and window < 1:
        raise UnsupportedArgument(_OP, "window", f"is {window}; a row sees at least itself")
