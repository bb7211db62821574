"""The appends in torch, for any device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["append_rows", "rotate_append"]


def append_rows(rows: Tensor, plane: Tensor, slots: Tensor) -> None:
    """plane[slots] = rows where slots ≥ 0.

    No shape may depend on what is on the device, so skipped rows are written too: to the slot of the first row that is
    not skipped, that row's own values, as often as it takes. Where all are skipped, slot 0 gets what it had.
    """
    if not len(slots) or not len(plane):
        return
    first = (slots >= 0).int().argmax()
    kept = (slots >= 0).view(-1, *(1 for _ in rows.shape[1:]))
    spare = torch.where(slots[first] >= 0, rows[first].to(plane.dtype), plane[0])
    plane[torch.where(slots >= 0, slots, slots[first].clamp(min=0))] = torch.where(kept, rows.to(plane.dtype), spare)


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
    """Norm, rotate, write; the arithmetic is FlatQwen3's, in fp32."""
    head_dim = kv.shape[-1]
    every = qkv.view(len(qkv), heads + 2 * kv_heads, head_dim)
    query, key, value = torch.split(every, [heads, kv_heads, kv_heads], dim=1)
    angles = positions.float()[:, None] * frequencies
    cos, sin = (angles.cos() * rotation_scale)[:, None], (angles.sin() * rotation_scale)[:, None]

    def turned(x: Tensor, weight: Tensor | None) -> Tensor:
        x = x.float()
        if weight is not None:
            x = torch.rms_norm(x, (head_dim,), weight.float(), eps)
        low, high = x.chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(qkv.dtype)

    append_rows(torch.stack((turned(key, k_norm), value), dim=1), kv, slots)
    return turned(query, q_norm)
