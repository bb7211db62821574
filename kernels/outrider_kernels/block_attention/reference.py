"""Block attention in torch: every context padded to the slot's capacity, in fp32.

Shapes: R requests, γ block size, H query heads, K key/value heads, G = H / K, D head size, S capacity of a slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["block_attention"]


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
    """Attend; no shape depends on what is on the device."""
    requests, gamma, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    if not requests:
        return torch.empty_like(query)
    past = torch.arange(context_keys.shape[1], device=query.device)
    used = (past < lengths[:, None])[..., None, None]
    held = slots.clamp(min=0)
    keys = torch.where(used, context_keys[held].float(), 0.0)  # what lies beyond a length may be NaN
    values = torch.where(used, context_values[held].float(), 0.0)
    keys, values = torch.cat((keys, key.float()), dim=1), torch.cat((values, value.float()), dim=1)

    folded = query.float().view(requests, gamma, kv_heads, heads // kv_heads, head_dim)
    logits = torch.einsum("rqkgd,rskd->rkgqs", folded, keys) * scaling
    own = torch.arange(gamma, device=query.device)
    seen = (past < lengths[:, None, None]).expand(-1, gamma, -1)
    if window is not None:
        seen = seen & (past > lengths[:, None, None] + own[:, None] - window)
    seen = torch.cat((seen, seen.new_ones(requests, gamma, gamma)), dim=-1)
    weights = torch.softmax(logits.masked_fill(~seen[:, None, None], float("-inf")), dim=-1)
    mixed = torch.einsum("rkgqs,rskd->rqkgd", weights, values).reshape(query.shape)
    return torch.where((slots >= 0)[:, None, None, None], mixed, 0.0).to(query.dtype)
