"""Sliding windows, soft caps and sinks of `attend` equal the naive formula, for ragged batches in poisoned memory."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from outrider.engine.attention import PagedBatch, Span, attend

HEADS, KV_HEADS, SIZE = 6, 2, 8
SLOTS = 512


def naive(
    query: Tensor, keys: Tensor, values: Tensor, *, window: int | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """One sequence, one query head and one position at a time: q [n, H, D] and k, v [n, K, D] to [n, H, D]."""
    out = torch.empty_like(query)
    for head in range(HEADS):
        of = head // (HEADS // KV_HEADS)
        for place in range(len(query)):
            first = 0 if window is None else max(0, place - window + 1)
            logits = keys[first : place + 1, of] @ query[place, head] * 0.3
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            if sinks is not None:
                logits = torch.cat((logits, sinks[head : head + 1]))
            weights = torch.softmax(logits, 0)[: place + 1 - first]
            out[place, head] = weights @ values[first : place + 1, of]
    return out


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("sinking", [False, True])
@pytest.mark.parametrize("window", [None, 1, 7, 33, 200])
def test_variants_equal_the_naive_formula(window: int | None, softcap: float | None, sinking: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [70, 1, 33, 40, 12]
    sinks = torch.randn(HEADS, generator=generator) if sinking else None
    inputs = [torch.randn(n, HEADS + 2 * KV_HEADS, SIZE, generator=generator) for n in lengths]
    free = random.Random(0).sample(range(SLOTS), SLOTS)
    slots = [torch.tensor([free.pop() for _ in range(n)]) for n in lengths]
    kv = torch.full((SLOTS, 2, KV_HEADS, SIZE), torch.nan)
    found: list[list[Tensor]] = [[] for _ in lengths]
    done = [0] * len(lengths)
    for takes in ({0: 36, 2: 3}, {3: 40, 0: 5, 1: 1, 2: 30}, {4: 8, 0: 29}, {4: 4}):
        batch = PagedBatch.of(
            [Span(done[row], count, slots[row]) for row, count in takes.items()],
            [kv],
            query_groups=HEADS // KV_HEADS,
        )
        new = torch.cat([inputs[row][done[row] : done[row] + count] for row, count in takes.items()])
        query, entries = new[:, :HEADS], new[:, HEADS:].view(-1, 2, KV_HEADS, SIZE)
        out = attend(query, entries, kv, batch, 0.3, window=window, softcap=softcap, sinks=sinks)
        for (row, count), part in zip(takes.items(), out.split(list(takes.values())), strict=True):
            done[row] += count
            found[row].append(part)
    assert done == lengths
    for parts, rows in zip(found, inputs, strict=True):
        query, keys, values = rows.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        expected = naive(query, keys, values, window=window, softcap=softcap, sinks=sinks)
        torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-4, atol=1e-5)


def test_a_window_s_mask_is_made_once_and_a_wide_one_never() -> None:
    batch = PagedBatch.of([Span(20, 2, torch.arange(22))], [torch.zeros(22, 2, 1, 4)], query_groups=1)
    (group,) = batch.groups
    assert group.mask_of(5) is group.mask_of(5)
    assert group.mask_of(22) is group.mask_of(None) is group.mask
    assert list(group.windowed) == [5]
