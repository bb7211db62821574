"""Arrival processes: rate, burstiness and stationarity against theory; what is due is a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest

from outrider.bench.arrivals import on_off_times, renewal_times, with_bursts
from outrider.errors import ConfigurationError


@pytest.mark.parametrize("cv", [0.25, 1.0, 3.0])
def test_gaps_have_the_asked_mean_and_variation(cv: float) -> None:
    times = renewal_times(50.0, 4_000.0, np.random.default_rng(1), cv=cv)
    gaps = np.diff(times)
    assert np.all(gaps >= 0)
    assert times[0] >= 0
    assert times[-1] < 4_000.0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


@pytest.mark.parametrize("cv", [0.3, 1.0, 4.0])
def test_a_short_run_expects_rate_times_duration_arrivals(cv: float) -> None:
    """With a whole gap first, cv 4 would expect 27.5 of the 20 here."""
    random = np.random.default_rng(2)
    counts = [len(renewal_times(2.0, 10.0, random, cv=cv)) for _ in range(4_000)]
    assert np.mean(counts) == pytest.approx(20.0, abs=4 * np.std(counts) / np.sqrt(len(counts)))


def test_poisson_counts_vary_as_their_mean() -> None:
    random = np.random.default_rng(3)
    counts = [len(renewal_times(2.0, 10.0, random)) for _ in range(4_000)]
    assert np.var(counts) == pytest.approx(20.0, rel=0.1)


def test_a_seed_decides_everything() -> None:
    first, again, other = (renewal_times(5.0, 60.0, np.random.default_rng(seed), cv=2.0) for seed in (4, 4, 5))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_on_off_keeps_the_mean_rate_and_the_silence() -> None:
    times = on_off_times(20.0, 3_000.0, np.random.default_rng(6), on_s=1.0, off_s=4.0)
    assert np.all(times % 5.0 <= 1.0)
    assert len(times) == pytest.approx(20.0 * 3_000.0, rel=0.02)
    assert np.all(np.diff(times) >= 0)


def test_a_run_that_ends_within_a_cycle_is_cut_there() -> None:
    times = on_off_times(100.0, 5.5, np.random.default_rng(7), on_s=1.0, off_s=4.0)
    assert len(times) == pytest.approx(100 * 5 * 1.5, rel=0.15)
    assert times[-1] < 5.5


def test_bursts_come_at_one_instant_beside_the_rest() -> None:
    times = with_bursts(np.asarray([1.0, 3.0]), [(2.0, 3), (0.5, 1)])
    assert times.tolist() == [0.5, 1.0, 2.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize(("name", "value"), [("rate_per_s", 0.0), ("duration_s", -1.0), ("cv", float("nan"))])
def test_impossible_processes_are_refused_by_name(name: str, value: float) -> None:
    asked = {"rate_per_s": 1.0, "duration_s": 1.0, "cv": 1.0} | {name: value}
    with pytest.raises(ConfigurationError, match=name):
        renewal_times(asked["rate_per_s"], asked["duration_s"], np.random.default_rng(0), cv=asked["cv"])
