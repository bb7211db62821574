"""Ragged paged attention behind `transformers`' attention interface.

A step's tokens come flat, as one row of a batch of one; only `PagedBatch` knows which sequence a token belongs to.
Shapes: B flat tokens, R sequences of a group, Q query tokens per sequence (padded), S context slots per sequence
(padded), H query heads, K key/value heads, G = H / K, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from outrider_kernels.paged_append import append_rows
from outrider_kernels.ragged_attention import RaggedRows, ragged_attention

__all__ = ["ATTENTION_NAME", "AttentionGroup", "PagedBatch", "Span", "attend", "paged_attention", "ragged_rows"]

ATTENTION_NAME = "outrider_paged"

NO_WINDOWS: Mapping[int, int] = MappingProxyType({})
"""Every layer sees its whole past."""

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
    context: slot of each padded context position, int64 [R·S]; mask: causal, additive fp [R, 1, G·Q, S];
    positions: of each padded query, int64 [R, Q], padding repeating its sequence's last one, so that no row of a mask
    is empty; real: which padded queries are real tokens, int64 [tokens], None when all are;
    windowed: the masks of sliding windows asked for so far.
    """

    requests: int
    queries: Tensor | None
    context: Tensor
    mask: Tensor
    positions: Tensor
    real: Tensor | None
    windowed: dict[int, Tensor]

    def mask_of(self, window: int | None) -> Tensor:
        """The causal mask, within a sliding window only positions less than `window` back; made once per step."""
        if window is None or window >= self.mask.shape[-1]:
            return self.mask
        if window not in self.windowed:
            context = torch.arange(self.mask.shape[-1], device=self.mask.device)
            past = context <= (self.positions - window)[:, :, None]
            folded = past.repeat(1, self.mask.shape[2] // past.shape[1], 1)[:, None]
            self.windowed[window] = self.mask.masked_fill(folded, float("-inf"))
        return self.windowed[window]


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """What attention must know of one step: where new keys go, and who attends to whom.

    write: slot of every flat token, int64 [B]; kv: the cache's layers; order: where each flat token's output lies in
    the concatenated group outputs, int64 [B], None when they are already in order; windows: the sliding window of
    every layer that has one; rows: the same as block tables, in place of the groups.
    """

    write: Tensor
    groups: tuple[AttentionGroup, ...]
    kv: list[Tensor]
    order: Tensor | None
    windows: Mapping[int, int]
    rows: RaggedRows | None = None

    @classmethod
    def of(
        cls,
        spans: Sequence[Span],
        kv: list[Tensor],
        *,
        query_groups: int,
        windows: Mapping[int, int] = NO_WINDOWS,
        block_size: int | None = None,
    ) -> PagedBatch:
        """Describe a step whose flat tokens are the given spans, one after another.

        With the `block_size` of the spans' memory, a power of two, attention is one ragged kernel over block tables.
        """
        device, dtype = kv[0].device, kv[0].dtype
        if block_size is not None:
            write = torch.cat([span.slots[span.start : span.start + span.length] for span in spans])
            return cls(write, (), kv, None, windows, ragged_rows(spans, block_size))
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
        return cls(write, groups, kv, order, windows)


def ragged_rows(spans: Sequence[Span], block_size: int) -> RaggedRows:
    """The spans of one step as block tables; blocks of a sequence begin at multiples of `block_size` slots."""
    device = spans[0].slots.device
    ends = [span.start + span.length for span in spans]
    starts = [0]
    for span in spans:
        starts.append(starts[-1] + span.length)
    blocks = torch.zeros(len(spans), -(-max(ends) // block_size), dtype=torch.int32, device=device)
    for row, (span, end) in enumerate(zip(spans, ends, strict=True)):
        held = span.slots[:end:block_size] // block_size
        blocks[row, : len(held)] = held
    return RaggedRows(
        query_start=torch.tensor(starts, dtype=torch.int32, device=device),
        context=torch.tensor([span.start for span in spans], dtype=torch.int32, device=device),
        blocks=blocks,
        block_size=block_size,
        longest_query=max(span.length for span in spans),
        longest_context=max(ends),
    )


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
    positions = starts[:, None] + torch.minimum(offsets, lengths[:, None] - 1)
    flat_queries = None if whole and not padded else queries
    return AttentionGroup(len(spans), flat_queries, slots.reshape(-1), mask, positions, real, {})


def attend(
    query: Tensor,
    new: Tensor,
    kv: Tensor,
    paged: PagedBatch,
    scaling: float | None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Write the step's keys and values [B, 2, K, D] to their slots of `kv`, then attend query [B, H, D].

    Query heads of one key/value head are folded into the query length, so keys and values are never repeated.
    softcap bounds the logits smoothly; sinks [H] are logits that take weight and give nothing. Returns [B, H, D].
    """
    if paged.rows is not None:
        append_rows(new, kv, paged.write)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return ragged_attention(query, kv, paged.rows, scaling=scale, window=window, softcap=softcap, sinks=sinks)
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
        folded = folded.reshape(rows, kv_heads, -1, head_dim)
        keys, values, mask = past[:, :, 0].transpose(1, 2), past[:, :, 1].transpose(1, 2), group.mask_of(window)
        if softcap is None and sinks is None:
            out = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
        else:
            out = _explicit_attention(folded, keys, values, mask, scaling, softcap, sinks)
        out = out.view(rows, kv_heads, -1, length, head_dim).permute(0, 3, 1, 2, 4).reshape(-1, heads, head_dim)
        outputs.append(out if group.real is None else out.index_select(0, group.real))
    merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return merged if paged.order is None else merged.index_select(0, paged.order)


def _explicit_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What SDPA has no argument for, in fp32: query [R, K, G·Q, D], keys and values [R, K, S, D]."""
    kv_heads, context = keys.shape[1:3]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    logits = query.float() @ keys.float().transpose(2, 3) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits + mask
    if sinks is not None:
        of_group = sinks.float().view(kv_heads, -1, 1)
        column = of_group.expand(-1, -1, query.shape[2] // of_group.shape[1]).reshape(1, kv_heads, -1, 1)
        logits = torch.cat((logits, column.expand(len(logits), -1, -1, -1)), dim=-1)
    return (torch.softmax(logits, dim=-1)[..., :context] @ values.float()).to(query.dtype)


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paged: PagedBatch,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """`attend` in the form of the attention interface: query [1, H, B, D], key and value [1, K, B, D], sinks s_aux [H].

    The interface's own `sliding_window` is not read: some families pass one that their masks do not have, and some
    the other way round. Returns [1, B, H, D] and no weights.
    """
    layer = cast(int, module.layer_idx)
    new = torch.stack((key[0], value[0])).permute(2, 0, 1, 3)
    window = paged.windows.get(layer)
    queries = query[0].transpose(0, 1)
    out = attend(queries, new, paged.kv[layer], paged, scaling, window=window, softcap=softcap, sinks=s_aux)
    return out[None], None


AttentionInterface.register(ATTENTION_NAME, paged_attention)
