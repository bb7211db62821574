"""The race noise is exponential, independent along every axis it is keyed by, and a pure function."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, kstest
from torch import Tensor

from outrider.speculation import RowSampling, choose, race_noise
from outrider_kernels.counter_noise import row_keys
from outrider_kernels.counter_noise.reference import minus_log1m
from outrider_kernels.decoder_step import native_noise


def noise(seeds: list[int], choices: list[int], positions: list[int], vocab: int) -> Tensor:
    return race_noise(torch.tensor(seeds), torch.tensor(choices), torch.tensor(positions), vocab)


def grid(seeds: int, positions: int, vocab: int) -> NDArray[np.float64]:
    """E for neighbouring seeds and positions, float64 [seeds, positions, vocab]."""
    rows = [(s, p) for s in range(seeds) for p in range(positions)]
    flat = noise([s for s, _ in rows], [0] * len(rows), [p for _, p in rows], vocab)
    return flat.view(seeds, positions, vocab).double().numpy()


@pytest.mark.parametrize("axis", ["tokens", "positions", "seeds"])
def test_exponential_along_every_axis(axis: str) -> None:
    sample = {
        "tokens": lambda: noise([7], [0], [11], 50_000)[0],
        "positions": lambda: noise([7] * 50_000, [0] * 50_000, list(range(50_000)), 1)[:, 0],
        "seeds": lambda: noise(list(range(50_000)), [0] * 50_000, [11] * 50_000, 1)[:, 0],
    }[axis]()
    assert kstest(sample.double().numpy(), "expon").pvalue > 1e-3


def test_a_large_sample_has_exponential_tails() -> None:
    sample = grid(64, 64, 512).reshape(-1)
    assert kstest(sample[::4], "expon").pvalue > 1e-3
    for level in (1.0, 5.0, 9.0):
        expected = sample.size * np.exp(-level)
        assert abs((sample > level).sum() - expected) < 5 * np.sqrt(expected)
        low = sample.size * -np.expm1(-np.exp(-level))
        assert abs((sample < np.exp(-level)).sum() - low) < 5 * np.sqrt(low)


@pytest.mark.parametrize(
    "step", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2), (0, 0, 64), (1, 1, 0), (0, 1, 1), (1, 0, 1)]
)
def test_neighbours_are_independent(step: tuple[int, int, int]) -> None:
    """Correlation and a chi-square of joint quartiles between E and E one step away in seed, position or token."""
    values = grid(40, 40, 128)
    s, p, t = step
    here = values[: values.shape[0] - s, : values.shape[1] - p, : values.shape[2] - t].reshape(-1)
    there = values[s:, p:, t:].reshape(-1)
    assert abs(np.corrcoef(here, there)[0, 1]) < 5 / np.sqrt(here.size)
    edges = -np.log1p(-np.arange(1, 4) / 4)
    table = np.zeros((4, 4))
    np.add.at(table, (np.digitize(here, edges), np.digitize(there, edges)), 1)
    assert chi2_contingency(table).pvalue > 1e-3


def test_choices_are_independent_streams() -> None:
    count = 20_000
    first, second = (noise([3] * count, [c] * count, list(range(count)), 1)[:, 0].double().numpy() for c in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(count)


def test_swapping_seed_choice_and_position_changes_the_noise() -> None:
    rows = noise([1, 1, 2, 2, 3, 3], [2, 3, 1, 3, 1, 2], [3, 2, 3, 1, 2, 1], 32)
    assert len(torch.unique(rows, dim=0)) == 6


def test_rows_depend_on_nothing_but_their_own_keys() -> None:
    seeds, choices, positions = torch.arange(50) * 13, torch.arange(50) % 3, torch.arange(50) % 7
    whole = race_noise(seeds, choices, positions, 300)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(race_noise(seeds[order], choices[order], positions[order], 300), whole[order])
    assert torch.equal(race_noise(seeds[:1], choices[:1], positions[:1], 300)[0], whole[0])
    assert torch.equal(race_noise(seeds, choices, positions, 40), whole[:, :40])


def test_never_zero_never_infinite_and_no_tie_at_the_front() -> None:
    sample = noise(list(range(400)), [0] * 400, [5] * 400, 10_000)
    assert sample.min() > 0
    assert sample.isfinite().all()
    winners = sample.topk(2, dim=1, largest=False).values
    assert (winners[:, 0] < winners[:, 1]).all()


def test_the_largest_uniform_stays_finite() -> None:
    """Seed 28480 draws for token 697 an integer that fp32 rounds up to 2³². In a race with one runner (a nucleus of one
    token) infinite noise would let a token of probability 0 win."""
    sampling = RowSampling.of([1.0], [0.5], [28480], [0])
    position = torch.tensor([0])
    assert race_noise(sampling.seeds, sampling.choices, position, 2048)[0, 697] > 16
    logits = torch.full((1, 2048), -20.0)
    logits[0, 697] = 20.0
    assert choose(logits, sampling, position).tolist() == [697]


def test_known_answers() -> None:
    """Pinned: a response must be reproducible by its seed across releases."""
    rows = noise([0, 1, -1, 2**62], [0, 0, 1, 3], [0, 1, 4095, 12], 3)
    torch.testing.assert_close(rows, torch.tensor(KNOWN), rtol=1e-6, atol=0)
    keys = row_keys(torch.tensor([42]), torch.tensor([0]), torch.tensor([7]))
    assert keys.tolist() == [KNOWN_KEYS]


KNOWN = [
    [1.327444196, 1.891972065, 0.793866277],
    [0.301019102, 0.006707073, 0.275190413],
    [1.753675103, 2.446562052, 4.776092529],
    [0.246178046, 0.698057175, 1.130082250],
]
KNOWN_KEYS = [-778911455, -1535779943]


def test_the_compiled_race_draws_the_same_noise(compiled: ctypes.CDLL) -> None:
    """To the bit: a response must not depend on which of the twins drew it."""
    vocab = 200_003
    for seed, choice, position in [(0, 0, 0), (7, 2, 11), (-1, 0, 1 << 40), (1 << 62, 5, 2047)]:
        ours = native_noise(compiled, seed, choice, position, vocab)
        assert torch.equal(ours, noise([seed], [choice], [position], vocab)[0])


def test_the_logarithm_is_right_to_two_ulp() -> None:
    grid = torch.cat((torch.logspace(-10, -1e-7, 200_000), torch.linspace(1e-7, 1 - 2.0**-24, 200_000)))
    u = grid.clamp(2.0**-33, 1 - 2.0**-24)
    true = -np.log1p(-u.double().numpy())
    assert np.abs((minus_log1m(u).double().numpy() - true) / np.spacing(true.astype(np.float32))).max() < 2
