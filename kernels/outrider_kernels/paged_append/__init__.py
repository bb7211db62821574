"""Writing a step's rows to their slots: keys and values, normed and rotated on the way, or features as they are.

Shapes: B flat tokens, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from outrider_kernels.dispatch import UnsupportedArgument, check_tensor, use_triton
from outrider_kernels.paged_append import reference

__all__ = ["append_rows", "rotate_append"]

_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_INDICES: Final = (torch.int64,)
_LARGEST_HEAD: Final = 256


def append_rows(rows: Tensor, plane: Tensor, slots: Tensor) -> None:
    """plane[slots[i]] = rows[i], in the plane's dtype, wherever slots[i] ≥ 0.

    rows [B, ...] and plane [slots, ...] end in the same dimensions, contiguous within a row; slots int64 [B], none
    twice and none beyond the plane. Raises UnsupportedArgument.
    """
    op = "append_rows"
    if rows.ndim < 1 or plane.ndim < 1 or rows.shape[1:] != plane.shape[1:]:
        reason = f"has shape {list(plane.shape)}, whose rows are not those of rows {list(rows.shape)}"
        raise UnsupportedArgument(op, "plane", reason)
    for name, tensor in (("rows", rows), ("plane", plane)):
        check_tensor(op, name, tensor, tensor.shape, _DTYPES, device=rows.device)
        if len(tensor) and not tensor[0].is_contiguous():
            raise UnsupportedArgument(op, name, f"has strides {list(tensor.stride())}; a row must be contiguous")
    check_tensor(op, "slots", slots, rows.shape[:1], _INDICES, device=rows.device)
    if use_triton(op, rows.device):
        from outrider_kernels.paged_append import triton

        triton.append_rows(rows, plane, slots)
    else:
        reference.append_rows(rows, plane, slots)


def rotate_append(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    kv: Tensor,
    *,
    heads: int,
    kv_heads: int,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    frequencies: Tensor,
    rotation_scale: float = 1.0,
) -> Tensor:
    """Norm and rotate queries and keys, write keys and values to their slots, return the queries [B, H, D].

    qkv [B, (H + 2K)·D]: queries, keys, values of one token side by side. kv [slots, 2, K, D] of its dtype. slots int64
    [B]: below zero nothing is written, and the token's queries mean nothing. q_norm and k_norm [D]: weights of the
    RMS norm of every head, None without one. The rotation is by halves: element i < D/2 and i + D/2 turn by
    positions·frequencies[i], and are multiplied with rotation_scale. All in fp32, rounded once. Raises
    UnsupportedArgument.
    """
    op = "rotate_append"
    head_dim = 2 * frequencies.shape[-1] if frequencies.ndim else 0
    if not 2 <= head_dim <= _LARGEST_HEAD:
        raise UnsupportedArgument(op, "frequencies", f"are {head_dim // 2}; 1 to {_LARGEST_HEAD // 2} would do")
    check_tensor(op, "frequencies", frequencies, (head_dim // 2,), (torch.float32,), device=qkv.device)
    check_tensor(op, "qkv", qkv, (None, (heads + 2 * kv_heads) * head_dim), _DTYPES)
    check_tensor(op, "positions", positions, qkv.shape[:1], _INDICES, device=qkv.device)
    check_tensor(op, "slots", slots, qkv.shape[:1], _INDICES, device=qkv.device)
    check_tensor(op, "kv", kv, (None, 2, kv_heads, head_dim), (qkv.dtype,), device=qkv.device, contiguous=True)
    if (q_norm is None) != (k_norm is None):
        raise UnsupportedArgument(op, "k_norm", "must be given where q_norm is, and only there")
    if q_norm is not None and k_norm is not None:
        check_tensor(op, "q_norm", q_norm, (head_dim,), _DTYPES, device=qkv.device)
        check_tensor(op, "k_norm", k_norm, (head_dim,), (q_norm.dtype,), device=qkv.device)
    if use_triton(op, qkv.device):
        from outrider_kernels.paged_append import triton

        run = triton.rotate_append
    else:
        run = reference.rotate_append
    return run(
        qkv, positions, slots, kv, heads=heads, kv_heads=kv_heads, q_norm=q_norm, k_norm=k_norm, eps=eps,
        frequencies=frequencies, rotation_scale=rotation_scale,
    )  # fmt: skip
