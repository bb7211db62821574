"""The distribution a row samples from equals transformers' warpers, and the race draws from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from outrider.speculation import RowSampling, choose, race, race_noise, token_probs
from outrider.types import SamplingParams
from support.surface import row_probs


def logits(rows: int, vocab: int, spread: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def warped(row: Tensor, temperature: float, top_p: float, top_k: int = 0, min_p: float = 0.0) -> Tensor:
    """transformers' distribution of one row."""
    return row_probs(row, SamplingParams(1, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p))


@pytest.mark.parametrize("vocab", [2, 97, 128, 129, 2048])
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_equals_the_transformers_warpers(vocab: int, spread: float) -> None:
    grid = [(t, p) for t in (0.3, 0.7, 1.0, 1.6) for p in (0.05, 0.5, 0.8, 0.95, 0.999, 1.0)]
    rows = logits(len(grid), vocab, spread)
    sampling = RowSampling.of([t for t, _ in grid], [p for _, p in grid], [0] * len(grid), [0] * len(grid))
    probs = token_probs(rows, sampling)
    for row, (temperature, top_p) in enumerate(grid):
        torch.testing.assert_close(probs[row], warped(rows[row], temperature, top_p), rtol=1e-4, atol=1e-7)
        alone = token_probs(rows[row : row + 1], RowSampling.of([temperature], [top_p], [0], [0]))
        torch.testing.assert_close(probs[row], alone[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("vocab", [2, 97, 129, 2048])
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_all_cuts_together_equal_the_transformers_warpers(vocab: int, spread: float) -> None:
    grid = [
        (t, p, k, m)
        for t in (0.3, 1.0, 1.6)
        for p in (0.5, 0.95, 1.0)
        for k in (0, 1, 3, 127, 128, 500, 5000)
        for m in (0.0, 0.02, 0.3, 1.0)
    ]
    rows = logits(len(grid), vocab, spread)
    columns = [list(column) for column in zip(*grid, strict=True)]
    zeros = [0] * len(grid)
    probs = token_probs(rows, RowSampling.of(columns[0], columns[1], zeros, zeros, columns[2], columns[3]))
    for row, (temperature, top_p, top_k, min_p) in enumerate(grid):
        wanted = warped(rows[row], temperature, top_p, top_k, min_p)
        torch.testing.assert_close(probs[row], wanted, rtol=1e-4, atol=1e-7)
        alone = token_probs(rows[row : row + 1], RowSampling.of([temperature], [top_p], [0], [0], [top_k], [min_p]))
        torch.testing.assert_close(probs[row], alone[0], rtol=1e-5, atol=1e-8)


def test_cuts_of_a_greedy_row_change_nothing_and_are_not_carried() -> None:
    greedy = RowSampling.of([0.0, 0.0], [1.0, 1.0], [0, 0], [0, 0], [5, 1], [0.3, 0.0])
    assert greedy.top_k is None
    assert greedy.min_p is None
    mixed = RowSampling.of([0.0, 1.0], [1.0, 1.0], [0, 0], [0, 0], [1, 2], [0.5, 0.0])
    rows = logits(2, 9)
    probs = token_probs(rows, mixed)
    torch.testing.assert_close(probs[0], torch.softmax(rows[0], -1))
    assert int((probs[1] > 0).sum()) == 2


def test_the_coldest_temperature_chooses_the_most_probable_token() -> None:
    rows = logits(64, 50) * 1e3
    sampling = RowSampling.of([1e-40] * 64, [1.0] * 64, range(64), [0] * 64)
    assert torch.equal(choose(rows, sampling, torch.arange(64)), rows.argmax(1))


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    probs = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    for top_p, kept in ((0.2, 1), (0.39, 1), (0.5, 2), (0.69, 2), (0.71, 3), (0.95, 4)):
        cut = token_probs(probs.log(), RowSampling.of([1.0], [top_p], [0], [0]))[0]
        assert int((cut > 0).sum()) == kept
        torch.testing.assert_close(cut[:kept], probs[0, :kept] / probs[0, :kept].sum())


def test_a_nucleus_too_small_for_any_token_keeps_the_most_probable() -> None:
    rows = logits(3, 40)
    cut = token_probs(rows, RowSampling.of([1.0] * 3, [0.0] * 3, [0] * 3, [0] * 3))
    assert torch.equal(cut.argmax(1), rows.argmax(1))
    assert torch.equal((cut > 0).sum(1), torch.ones(3, dtype=torch.int64))


def test_temperature_zero_is_argmax_among_sampling_rows() -> None:
    rows = logits(64, 50)
    temperature = [0.0, 1.0, 0.0, 0.8] * 16
    sampling = RowSampling.of(temperature, [0.9] * 64, list(range(64)), [0] * 64)
    chosen = choose(rows, sampling, torch.arange(64))
    greedy = torch.tensor(temperature) == 0
    assert torch.equal(chosen[greedy], rows.argmax(1)[greedy])
    assert not torch.equal(chosen[~greedy], rows.argmax(1)[~greedy])


def test_a_row_is_chosen_alike_alone_and_in_any_company() -> None:
    rows = logits(40, 200)
    sampling = RowSampling.of([0.7] * 20 + [1.0] * 20, [0.9, 1.0] * 20, list(range(40)), [0, 1] * 20)
    positions = torch.arange(40) * 3
    together = choose(rows, sampling, positions)
    assert torch.equal(
        choose(rows.flip(0), sampling.index(torch.arange(39, -1, -1)), positions.flip(0)), together.flip(0)
    )
    for row in range(40):
        one = torch.tensor([row])
        assert choose(rows[row : row + 1], sampling.index(one), positions[row : row + 1]).item() == together[row]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.85)])
def test_the_race_draws_from_the_distribution(temperature: float, top_p: float) -> None:
    count, vocab = 40_000, 12
    row = logits(1, vocab, 1.5)
    sampling = RowSampling.of([temperature] * count, [top_p] * count, range(count), [0] * count)
    drawn = choose(row.expand(count, vocab), sampling, torch.full((count,), 9))
    expected = warped(row[0], temperature, top_p).double().numpy()
    counts = np.bincount(drawn.numpy(), minlength=vocab)
    live = expected > 0
    assert counts[~live].sum() == 0
    assert chisquare(counts[live], expected[live] / expected[live].sum() * count).pvalue > 1e-3


def test_match_probability_of_two_races_is_the_published_one() -> None:
    """Σ_i 1/Σ_j max(p_j/p_i, q_j/q_i) (Daliri et al., arXiv 2408.07978), the acceptance of coupled drafting."""
    count, vocab = 40_000, 10
    p_logits, q_logits = logits(1, vocab, 1.2, 1), logits(1, vocab, 1.2, 2)
    sampling = RowSampling.of([1.0] * count, [1.0] * count, range(count), [0] * count)
    noise = race_noise(sampling.seeds, sampling.choices, torch.zeros(count, dtype=torch.int64), vocab)
    ours = race(p_logits.expand(count, vocab), sampling, noise)
    theirs = race(q_logits.expand(count, vocab), sampling, noise)
    p, q = (torch.softmax(one[0].double(), 0).numpy() for one in (p_logits, q_logits))
    expected = sum(1 / np.maximum(p / p[i], q / q[i]).sum() for i in range(vocab))
    found = float((ours == theirs).double().mean())
    assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
    distance = 0.5 * np.abs(p - q).sum()
    assert expected >= (1 - distance) / (1 + distance) - 1e-12


def test_impossible_tokens_never_win() -> None:
    rows = torch.full((5_000, 6), -torch.inf)
    rows[:, 4] = 0.0
    rows[:, 2] = -30.0
    sampling = RowSampling.of([1.0] * 5_000, [1.0] * 5_000, range(5_000), [0] * 5_000)
    assert set(choose(rows, sampling, torch.zeros(5_000, dtype=torch.int64)).tolist()) == {4}


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("vocab", [33, 2048])
def test_the_compiled_choice_is_the_one_of_the_race(vocab: int) -> None:
    count = 256
    rows = RowSampling.of([0.0, 0.3, 1.0, 1.7] * 64, [1.0] * count, list(range(-100, 156)), [0, 1] * 128)
    logits = 4 * torch.randn(count, vocab, generator=torch.Generator().manual_seed(9))
    logits[:, ::5] = -torch.inf
    positions = torch.arange(count) * 5
    expected = race(logits, rows, race_noise(rows.seeds, rows.choices, positions, vocab))
    assert torch.equal(choose(logits, rows, positions), expected)
