"""The compiled decoder step equals its reference twin at odd sizes, and a row's numbers never depend on its company."""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from outrider_kernels import (
    BuildError,
    DecoderLayer,
    DecoderRows,
    DecoderWeights,
    HeadWeights,
    NativeDraft,
    NativeStep,
    PendingStep,
    Projection,
    library,
    store_context,
)
from outrider_kernels.decoder_step import (
    CACHE_VARIABLE,
    built,
    native_choose,
    native_fits,
    native_noise,
    reference_context,
    reference_draw,
    reference_step,
)

SLOTS = 1024
SHAPES = {  # d, layers, H, K, D, I, V
    "small": (48, 3, 4, 2, 16, 80, 97),
    "demo": (256, 2, 4, 2, 64, 896, 2048),
    "odd panels": (112, 2, 3, 1, 32, 144, 33),
    "no groups": (64, 1, 2, 2, 128, 64, 1),
    "wide heads": (64, 1, 5, 1, 256, 32, 100),
}
SPANS = {
    "one": [(0, 1)],
    "deep": [(700, 1)],
    "draft": [(63, 8)],
    "63": [(0, 63)],
    "ragged": [(5, 1), (63, 8), (0, 33), (1, 2), (128, 13)],
    "sixteen": [(17 * i, 1) for i in range(11)],
}


def weights_of(shape: str, *, bf16: bool = False) -> DecoderWeights:
    hidden, layers, heads, kv_heads, width, inner, vocab = SHAPES[shape]
    generator = torch.Generator().manual_seed(1)

    def matrix(*size: int, scale: float = 0.1) -> Tensor:
        drawn = torch.randn(*size, generator=generator) * scale
        return drawn.bfloat16().float() if bf16 else drawn

    def norm(*size: int) -> Tensor:
        return 1 + matrix(*size)

    def layer() -> DecoderLayer:
        return DecoderLayer(
            norm(hidden), matrix((heads + 2 * kv_heads) * width, hidden), norm(heads + kv_heads, width),
            matrix(hidden, heads * width), norm(hidden), matrix(inner, hidden), matrix(inner, hidden),
            matrix(hidden, inner),
        )  # fmt: skip

    return DecoderWeights(
        embedding=matrix(vocab, hidden, scale=1.0),
        layers=tuple(layer() for _ in range(layers)),
        final_norm=norm(hidden),
        head=matrix(vocab, hidden),
        frequencies=10000.0 ** -(torch.arange(0, width, 2) / width),
        heads=heads,
        kv_heads=kv_heads,
        eps=1e-6,
        scaling=width**-0.5,
        rotation_scale=1.25,
        projection=Projection((-1, layers - 1), matrix(hidden, 2 * hidden), norm(hidden), 1e-5),
    )


def rows_of(weights: DecoderWeights, spans: list[tuple[int, int]], *, causal: bool = True) -> DecoderRows:
    """Random tokens and contexts in shuffled slots; memory that no span may read is NaN."""
    generator = torch.Generator().manual_seed(2)
    order, used = torch.randperm(SLOTS, generator=generator), 0
    keys, values = (
        [torch.full((SLOTS, weights.kv_heads, weights.head_dim), torch.nan) for _ in weights.layers] for _ in range(2)
    )
    first_row, slots, positions = [0], [], []
    for context, length in spans:
        first_row.append(first_row[-1] + length)
        slots.append(order[used : used + context + length].clone())
        positions.append(torch.arange(context, context + length))
        used += context + length
        for plane in (*keys, *values):
            plane[slots[-1][:context]] = torch.randn(context, *plane.shape[1:], generator=generator)
    vocab, count = weights.embedding.shape[0], first_row[-1]
    return DecoderRows(
        token_ids=torch.randint(vocab, (count,), generator=generator),
        positions=torch.cat(positions),
        first_row=first_row,
        context=[context for context, _ in spans],
        keys=keys,
        values=values,
        wanted=torch.arange(count),
        slots=slots,
        features=torch.zeros(SLOTS, weights.embedding.shape[1]),
        causal=causal,
    )


def written(rows: DecoderRows) -> list[Tensor]:
    """Everything the step may store."""
    assert rows.features is not None
    return [rows.features, *rows.keys, *rows.values]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("spans", SPANS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(compiled: ctypes.CDLL, shape: str, spans: str, bf16: bool) -> None:
    weights = weights_of(shape, bf16=bf16)
    ours, theirs = rows_of(weights, SPANS[spans]), rows_of(weights, SPANS[spans])
    found, expected = NativeStep(compiled, weights)(ours, hidden=True), reference_step(weights, theirs)
    for one, other in zip((*found, *written(ours)), (*expected, *written(theirs)), strict=True):
        close(one, other)


def test_blocks_that_see_all_of_themselves_and_store_nothing(compiled: ctypes.CDLL) -> None:
    weights = weights_of("demo")
    rows = replace(rows_of(weights, [(40, 7), (9, 7)], causal=False), writes=False, slots=None, first_slot=[100, 300])
    for plane in (*rows.keys, *rows.values):
        plane[100:140] = plane[300:309] = torch.randn(weights.kv_heads, weights.head_dim)
    weights = replace(weights, projection=None)
    before = [tensor.clone() for tensor in written(rows)]
    for one, other in zip(NativeStep(compiled, weights)(rows, hidden=True), reference_step(weights, rows), strict=True):
        close(one, other)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, written(rows), strict=True))


def test_only_wanted_rows_are_answered(compiled: ctypes.CDLL) -> None:
    weights, step = weights_of("small"), NativeStep(compiled, weights_of("small"))
    everything = step(rows_of(weights, SPANS["ragged"]))[1]
    rows = replace(rows_of(weights, SPANS["ragged"]), wanted=torch.tensor([0, 8, 41]))
    assert torch.equal(step(rows)[1], everything[[0, 8, 41]])
    assert step(replace(rows, wanted=rows.wanted[:0]))[1].shape == (0, 97)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_row_has_the_same_bits_alone_in_company_and_with_threads(
    compiled: ctypes.CDLL, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider_kernels.decoder_step.native._SHARED_PRODUCTS", 0)
    weights = weights_of("demo", bf16=bf16)
    step = NativeStep(compiled, weights)
    together = step(rows_of(weights, SPANS["ragged"]))[1]
    rows = rows_of(weights, SPANS["ragged"])
    assert rows.slots is not None
    alone = []
    for span, (first, end) in enumerate(zip(rows.first_row[:-1], rows.first_row[1:], strict=True)):
        for row in range(first, end):  # one token at a time, as depth 0 would
            one = replace(
                rows,
                token_ids=rows.token_ids[row : row + 1],
                positions=rows.positions[row : row + 1],
                first_row=[0, 1],
                context=[rows.context[span] + row - first],
                wanted=torch.tensor([0]),
                slots=[rows.slots[span]],
            )
            alone.append(step(one)[1])
    assert torch.equal(torch.cat(alone), together)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(step(rows_of(weights, SPANS["ragged"]))[1], together)
    finally:
        torch.set_num_threads(threads)


def test_what_it_does_not_cover() -> None:
    weights = weights_of("small")
    assert native_fits(weights)
    assert not native_fits(replace(weights, embedding=weights.embedding.double()))
    assert not native_fits(replace(weights, embedding=weights.embedding[:, :40]))
    assert not native_fits(replace(weights, frequencies=weights.frequencies[:6]))


def test_a_cold_cache_is_filled_once(compiled: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kernels"))
    assert not built()
    library.__wrapped__()
    assert built()
    (made,) = (tmp_path / "kernels").glob("*.so")
    stamp = made.stat().st_mtime_ns
    library.__wrapped__()
    assert made.stat().st_mtime_ns == stamp
    assert {file.suffix for file in made.parent.iterdir()} == {".so", ".lock"}


def test_no_compiler_and_a_failing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        library.__wrapped__()
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'step.cpp:1: error: no such thing' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    with pytest.raises(BuildError, match="no such thing"):
        library.__wrapped__()
    assert not built()


def test_without_a_compiler_the_step_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    library.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert PendingStep(lambda: weights_of("small")).wait() is None
    library.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no C++ compiler" in caplog.text


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, os.fspath(tmp_path / "file" / "kernels"))
    with pytest.raises(BuildError):
        library.__wrapped__()


def test_contexts_of_a_drafter(compiled: ctypes.CDLL) -> None:
    weights = weights_of("demo")
    generator = torch.Generator().manual_seed(3)
    rows, positions = torch.randn(63, 256, generator=generator), torch.randint(2000, (63,), generator=generator)
    slots = torch.randperm(100, generator=generator)[:63]
    planes = [[torch.zeros(2, 4, 25, 2, 64) for _ in range(2)] for _ in range(2)]
    store_context(NativeStep(compiled, weights), rows, positions, slots, *planes[0])
    reference_context(weights, rows, positions, slots, *planes[1])
    for ours, theirs in zip(planes[0], planes[1], strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("rank", [0, 24])
@pytest.mark.parametrize(("blocks", "shape"), [(1, "small"), (5, "odd panels"), (16, "demo")])
def test_blocks_are_proposed_as_the_reference_proposes_them(
    compiled: ctypes.CDLL, blocks: int, shape: str, rank: int, random: bool
) -> None:
    weights = replace(weights_of(shape), projection=None)
    hidden, layers, _, kv_heads, width, _, vocab = SHAPES[shape]
    generator = torch.Generator().manual_seed(4)

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    w1, w2 = (drawn(vocab, rank), drawn(vocab, rank)) if rank else (None, None)
    head = HeadWeights(hidden, vocab, w1, w2, drawn(hidden + (rank if blocks > 1 else 0)), 0.5)
    keys, values = drawn(layers, 16, 40, kv_heads, width), drawn(layers, 16, 40, kv_heads, width)
    anchors, positions = torch.arange(blocks), torch.arange(blocks) * 3 % 40
    first_slot = [40 * block for block in range(blocks)]
    ids = torch.full((blocks, 7), 2)
    ids[:, 0] = anchors
    places = positions[:, None] + torch.arange(7)
    rows = DecoderRows(
        token_ids=ids.flatten(),
        positions=places.flatten(),
        first_row=range(0, 7 * blocks + 1, 7),
        context=positions.tolist(),
        keys=[plane.flatten(0, 1) for plane in keys],
        values=[plane.flatten(0, 1) for plane in values],
        wanted=torch.arange(7 * blocks),
        first_slot=first_slot,
        causal=False,
        writes=False,
    )
    temperature, seeds, choices = torch.linspace(0, 1.5, blocks), torch.arange(blocks) - 3, torch.arange(blocks) % 2
    noise = [
        [native_noise(compiled, int(seeds[b]), int(choices[b]), int(place) + 1, vocab) for place in places[b]]
        for b in range(blocks)
    ]
    raced = torch.stack([torch.stack(each) for each in noise]) if random else None
    final, logits = reference_step(weights, rows)
    expected = reference_draw(head, final, logits, anchors, raced, temperature)
    draft = NativeDraft(NativeStep(compiled, weights), head, block_size=7, mask_token=2)
    racers = (temperature, seeds, choices) if random else None
    tokens, confidence = draft.propose(first_slot, anchors, positions, racers, keys, values)
    assert torch.equal(tokens, expected[0])
    close(confidence, expected[1])


@pytest.mark.parametrize("vocab", [1, 33, 2048])
def test_rows_are_chosen_by_argmax_or_by_their_race(compiled: ctypes.CDLL, vocab: int) -> None:
    generator = torch.Generator().manual_seed(8)
    logits, temperature = 3 * torch.randn(64, vocab, generator=generator), torch.arange(64) % 4 * 0.5
    seeds, positions, choices = torch.arange(64) * 7 - 90, torch.arange(64) + 3, torch.arange(64) % 3
    noise = torch.stack(
        [
            native_noise(compiled, seed, choice, position, vocab)
            for seed, choice, position in zip(seeds.tolist(), choices.tolist(), positions.tolist(), strict=True)
        ]
    )
    chance = torch.softmax(logits / temperature.clamp(min=1e-9)[:, None], dim=1)
    expected = torch.where(temperature > 0, (chance / noise).argmax(dim=1), logits.argmax(dim=1))
    assert torch.equal(native_choose(compiled, logits, (temperature, seeds, choices), positions), expected)
