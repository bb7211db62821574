"""The flat paged forward equals stock transformers, whatever the spans, the blocks and what lies in unused memory.

All ways of computing it are tested: the stock modules through the attention interface, the fused Qwen3 forward, and
the compiled step.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.engine import TargetModel
from outrider.engine.attention import Span
from outrider.engine.batch import FlatBatch
from outrider.engine.cache import PagedCache
from outrider.engine.stock import StockModel
from support.tiny import TinyPair

BLOCK, BLOCKS = 16, 64
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=["compiled", "flat", "stock"])
def target(pair: TinyPair, request: pytest.FixtureRequest) -> TargetModel:
    compiled = request.param == "compiled"
    target = TargetModel.load(pair.target, drafter=pair.drafter, stock=request.param == "stock", compiled=compiled)
    if compiled and (target.compiled is None or target.compiled.pending.wait() is None):
        pytest.skip("no compiled step on this machine")
    assert isinstance(target._flat, StockModel) == (request.param == "stock")
    return target


class Sheet:
    """Sequences in paged memory, computed span by span; every unused slot holds NaN before the first step."""

    def __init__(self, target: TargetModel, lengths: list[int], seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.target = target
        self.tokens = [torch.randint(target.vocab_size, (n,), generator=generator) for n in lengths]
        self.cache = target.new_cache(BLOCKS, BLOCK)
        free = random.Random(seed).sample(range(BLOCKS), BLOCKS)
        self.slots = [self.cache.slots_of([free.pop() for _ in range(-(-n // BLOCK))]) for n in lengths]
        self.done = [0] * len(lengths)
        self.logits: list[list[Tensor]] = [[] for _ in lengths]
        poison(self.cache)

    def step(self, takes: dict[int, int]) -> None:
        """Compute the next tokens of the given sequences, in that order, as one flat batch with all logits wanted."""
        spans = tuple(Span(self.done[row], count, self.slots[row]) for row, count in takes.items())
        tokens = torch.cat([self.tokens[row][self.done[row] : self.done[row] + count] for row, count in takes.items()])
        positions = torch.cat([torch.arange(s.start, s.start + s.length) for s in spans])
        logits = self.target.forward(FlatBatch(tokens, positions, spans, torch.arange(len(tokens))), self.cache)
        assert logits is not None
        for (row, count), part in zip(takes.items(), logits.split(list(takes.values())), strict=True):
            self.done[row] += count
            self.logits[row].append(part)


def poison(cache: PagedCache) -> None:
    for layer in cache.kv:
        layer.fill_(torch.nan)
    assert cache.features is not None
    cache.features.fill_(torch.nan)


@torch.inference_mode()
def expected(stock: Any, tokens: Tensor) -> Tensor:
    return torch.as_tensor(stock(tokens[None]).logits[0])


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63, 64, 65])
def test_a_prompt_in_one_piece(target: TargetModel, stock: Any, length: int) -> None:
    sheet = Sheet(target, [length])
    sheet.step({0: length})
    torch.testing.assert_close(sheet.logits[0][0], expected(stock, sheet.tokens[0]), **CLOSE)


def test_ragged_prompts_of_every_length_in_one_batch(target: TargetModel, stock: Any) -> None:
    lengths = [33, 1, 63, 32, 2, 31, 40]
    sheet = Sheet(target, lengths)
    sheet.step(dict(enumerate(lengths)))
    for tokens, logits in zip(sheet.tokens, sheet.logits, strict=True):
        torch.testing.assert_close(logits[0], expected(stock, tokens), **CLOSE)


@pytest.mark.parametrize("chunk", [1, 7, 32, 33])
def test_chunked_prefill(target: TargetModel, stock: Any, chunk: int) -> None:
    sheet = Sheet(target, [67])
    while sheet.done[0] < 67:
        sheet.step({0: min(chunk, 67 - sheet.done[0])})
    torch.testing.assert_close(torch.cat(sheet.logits[0]), expected(stock, sheet.tokens[0]), **CLOSE)


def test_prefill_decode_and_verification_spans_together(target: TargetModel, stock: Any) -> None:
    sheet = Sheet(target, [80, 45, 33, 63, 9], seed=3)
    sheet.step({0: 60, 2: 32})
    sheet.step({2: 1, 1: 36, 0: 8})
    sheet.step({0: 1, 3: 63, 1: 8, 4: 1})
    sheet.step({4: 8, 1: 1, 0: 11})
    for row, tokens in enumerate(sheet.tokens):
        assert sheet.done[row] == len(tokens)
        torch.testing.assert_close(torch.cat(sheet.logits[row]), expected(stock, tokens), **CLOSE)


def test_rejected_positions_are_overwritten(target: TargetModel, stock: Any) -> None:
    sheet = Sheet(target, [40, 20])
    sheet.step({0: 20, 1: 12})
    true = sheet.tokens[0].clone()
    sheet.tokens[0] = (true + 1) % target.vocab_size
    sheet.step({0: 8, 1: 1})
    sheet.tokens[0], sheet.done[0] = true, 20
    sheet.logits[0].pop()
    sheet.step({1: 7, 0: 20})
    torch.testing.assert_close(torch.cat(sheet.logits[0]), expected(stock, true), **CLOSE)
    torch.testing.assert_close(torch.cat(sheet.logits[1]), expected(stock, sheet.tokens[1]), **CLOSE)


def test_only_wanted_rows_get_logits(target: TargetModel, stock: Any) -> None:
    sheet = Sheet(target, [12])
    batch = FlatBatch(sheet.tokens[0], torch.arange(12), (Span(0, 12, sheet.slots[0]),), torch.tensor([4, 11]))
    logits = target.forward(batch, sheet.cache)
    torch.testing.assert_close(logits, expected(stock, sheet.tokens[0])[[4, 11]], **CLOSE)
    silent = FlatBatch(sheet.tokens[0], torch.arange(12), (Span(0, 12, sheet.slots[0]),), None)
    assert target.forward(silent, sheet.cache) is None


@torch.inference_mode()
def test_drafter_rows_are_the_projection_of_the_raw_tapped_states(target: TargetModel, stock: Any) -> None:
    sheet = Sheet(target, [37, 5])
    sheet.step({0: 30, 1: 5})
    sheet.step({0: 7})
    projection = target.projection
    assert projection is not None
    assert sheet.cache.features is not None
    for tokens, slots in zip(sheet.tokens, sheet.slots, strict=True):
        states = stock(tokens[None], output_hidden_states=True).hidden_states
        taps = torch.cat([states[layer + 1][0] for layer in projection.layer_ids], dim=-1)
        rows = sheet.cache.features[slots[: len(tokens)]]
        torch.testing.assert_close(rows, projection(taps), **CLOSE)


def test_memory_that_belongs_to_nobody_stays_untouched(target: TargetModel) -> None:
    sheet = Sheet(target, [17, 33])
    sheet.step({0: 17, 1: 33})
    written = torch.zeros(BLOCK * BLOCKS, dtype=torch.bool)
    written[torch.cat([slots[:n] for slots, n in zip(sheet.slots, (17, 33), strict=True)])] = True
    for layer in sheet.cache.kv:
        assert layer[~written].isnan().all()
        assert not layer[written].isnan().any()
