"""Ragged paged attention behind `transformers`' attention interface.

A step's tokens come flat, as one row of a batch of one; only `PagedBatch` knows which sequence a token belongs to.
Shapes: B flat tokens, R sequences of a group, Q query tokens per sequence (padded), S context slots per sequence
(padded), H query heads, K key/value heads, G = H / K, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

__all__ = ["ATTENTION_NAME", "AttentionGroup", "PagedBatch", "Span", "attend", "paged_attention"]

ATTENTION_NAME = "outrider_paged"

_LONG_QUERY = 32
"""Spans with more query tokens than this are attended alone: padding short ones to them would waste the batch."""


@dataclass(frozen=True, slots=True)
class Span:
    """The consecutive tokens of one sequence in a step: `length` of them, the first at position `start`.

    slots: int64 slots of the sequence's positions from 0, at least start + length of them.
    """

    start: int
    length: int
    slots: Tensor


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Sequences attended in one call. All tensors are shared by every layer of the step.

    queries: flat token of each padded query, int64 [R·Q], None when the group is the whole batch, unpadded;
    context: slot of each padded context position, int64 [R·S]; mask: additive fp [R, 1, G·Q, S];
    real: which padded queries are real tokens, int64 [tokens], None when all are.
    """

    requests: int
    queries: Tensor | None
    context: Tensor
    mask: Tensor
    real: Tensor | None


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """What attention must know of one step: where new keys go, and who attends to whom.

    write: slot of every flat token, int64 [B]; kv: the cache's layers; order: where each flat token's output lies in
    the concatenated group outputs, int64 [B], None when they are already in order.
    """

    write: Tensor
    groups: tuple[AttentionGroup, ...]
    kv: list[Tensor]
    order: Tensor | None

    @classmethod
    def of(cls, spans: Sequence[Span], kv: list[Tensor], *, query_groups: int) -> PagedBatch:
        """Describe a step whose flat tokens are the given spans, one after another."""
        device, dtype = kv[0].device, kv[0].dtype
        firsts = [0]
        for span in spans:
            firsts.append(firsts[-1] + span.length)
        short = [i for i, span in enumerate(spans) if span.length <= _LONG_QUERY]
        members = ([short] if short else []) + [[i] for i, s in enumerate(spans) if s.length > _LONG_QUERY]
        groups = tuple(
            _group([spans[i] for i in m], [firsts[i] for i in m], query_groups, dtype, whole=len(members) == 1)
            for m in members
        )
        write = torch.cat([span.slots[span.start : span.start + span.length] for span in spans])
        order = None
        flat = [i for member in members for i in member]
        if flat != list(range(len(spans))):
            tokens = torch.cat([torch.arange(firsts[i], firsts[i + 1], device=device) for i in flat])
            order = torch.empty_like(tokens)
            order[tokens] = torch.arange(len(tokens), device=device)
        return cls(write, groups, kv, order)


def _group(
    spans: list[Span], firsts: list[int], query_groups: int, dtype: torch.dtype, *, whole: bool
) -> AttentionGroup:
    device = spans[0].slots.device
    longest = max(span.length for span in spans)
    context = max(span.start + span.length for span in spans)
    starts = torch.tensor([span.start for span in spans], device=device)
    lengths = torch.tensor([span.length for span in spans], device=device)
    offsets = torch.arange(longest, device=device)
    inside = offsets < lengths[:, None]
    first = torch.tensor(firsts, device=device)
    queries = torch.where(inside, first[:, None] + offsets, 0).reshape(-1)

    # Padding reads the sequence's own first slot: its weight is zero, but 0·NaN from a stranger's memory is NaN.
    slots = torch.stack([span.slots[0] for span in spans])[:, None].repeat(1, context)
    for row, span in enumerate(spans):
        slots[row, : span.start + span.length] = span.slots[: span.start + span.length]
    visible = torch.arange(context, device=device) <= (starts[:, None] + offsets.clamp(max=longest))[:, :, None]
    visible &= torch.arange(context, device=device) < (starts + lengths)[:, None, None]
    mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
    mask = mask.repeat(1, query_groups, 1)[:, None]
    padded = any(span.length != longest for span in spans)
    real = inside.reshape(-1).nonzero()[:, 0] if padded else None
    return AttentionGroup(len(spans), None if whole and not padded else queries, slots.reshape(-1), mask, real)


def attend(query: Tensor, new: Tensor, kv: Tensor, paged: PagedBatch, scaling: float) -> Tensor:
    """Write the step's keys and values [B, 2, K, D] to their slots of `kv`, then attend query [B, H, D].

    Query heads of one key/value head are folded into the query length, so keys and values are never repeated.
    Returns [B, H, D].
    """
    kv.index_copy_(0, paged.write, new)
    heads, head_dim = query.shape[1:]
    kv_heads = new.shape[2]
    outputs = []
    for group in paged.groups:
        rows = group.requests
        past = kv.index_select(0, group.context).view(rows, -1, 2, kv_heads, head_dim)
        queries = query if group.queries is None else query.index_select(0, group.queries)
        folded = queries.reshape(rows, -1, kv_heads, heads // kv_heads, head_dim).permute(0, 2, 3, 1, 4)
        length = folded.shape[3]
        out = scaled_dot_product_attention(
            folded.reshape(rows, kv_heads, -1, head_dim),
            past[:, :, 0].transpose(1, 2),
            past[:, :, 1].transpose(1, 2),
            attn_mask=group.mask,
            scale=scaling,
        )
        out = out.view(rows, kv_heads, -1, length, head_dim).permute(0, 3, 1, 2, 4).reshape(-1, heads, head_dim)
        outputs.append(out if group.real is None else out.index_select(0, group.real))
    merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return merged if paged.order is None else merged.index_select(0, paged.order)


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    paged: PagedBatch,
    **_: object,
) -> tuple[Tensor, None]:
    """`attend` in the form of the attention interface: query [1, H, B, D], key and value [1, K, B, D].

    Returns [1, B, H, D] and no weights.
    """
    kv = paged.kv[module.layer_idx]  # type: ignore[index]
    new = torch.stack((key[0], value[0])).permute(2, 0, 1, 3)
    return attend(query[0].transpose(0, 1), new, kv, paged, scaling)[None], None


AttentionInterface.register(ATTENTION_NAME, paged_attention)
