"""Judging and replacing a calibration, on rounds whose true chances are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.scheduling import prefix_survival
from outrider.scheduling.recalibration import Observations, disagreement, refit, report, survival_floor

GAMMA = 5
HALF = np.arange(512) % 2 == 0


def rounds(count: int, seed: int, true: float = 1.0, ends: int = 40) -> Observations:
    """Rounds whose every slot survives with σ(z/true), in answers that end 1…`ends` tokens later."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(1.0, 1.5, (count, GAMMA)).astype(np.float32)
    alive = rng.random((count, GAMMA)) < 1 / (1 + np.exp(-logits / true))
    left = np.minimum(rng.integers(1, ends + 1, count), GAMMA)
    return Observations(logits, np.minimum(alive.cumprod(axis=1).sum(axis=1), left), left, np.arange(count))


def scrambled(seen: Observations, seed: int = 0) -> Observations:
    """The same outcomes with the confidences of other rounds."""
    order = np.random.default_rng(seed).permutation(len(seen.run))
    return Observations(seen.confidence[order], seen.run, seen.left, seen.owner)


def test_true_predictions_disagree_as_noise_does() -> None:
    scores = [
        disagreement(prefix_survival(seen.confidence), seen) for seen in (rounds(256, s, ends=8) for s in range(400))
    ]
    # √χ² with two degrees of freedom has median 1.18 and exceeds 2.45 in 5 %
    assert 1.0 < float(np.median(scores)) < 1.35
    assert sum(score > 2.45 for score in scores) < 40
    assert max(scores) < 5


def test_rounds_that_repeat_each_other_are_no_new_evidence() -> None:
    one = rounds(64, 3, true=0.4)
    four = Observations(*(np.repeat(each, 4, axis=0) for each in (one.confidence, one.run, one.left, one.owner)))
    told, repeated = (disagreement(prefix_survival(seen.confidence), seen) for seen in (one, four))
    assert told > 2
    assert repeated < 1.15 * told
    apart = Observations(four.confidence, four.run, four.left, np.arange(256))
    assert disagreement(prefix_survival(apart.confidence), apart) > 1.5 * told


@pytest.mark.parametrize("true", [0.3, 4.0])
def test_distorted_and_scrambled_confidences_disagree_far_beyond_noise(true: float) -> None:
    for seed in range(20):
        distorted = rounds(256, seed, true)
        assert disagreement(prefix_survival(distorted.confidence), distorted) > 5
        mixed = scrambled(rounds(256, seed), seed)
        assert disagreement(prefix_survival(mixed.confidence), mixed) > 5


def test_scrambled_confidences_are_right_on_average_and_still_found() -> None:
    mixed = scrambled(rounds(256, 1))
    survival = prefix_survival(mixed.confidence)
    label, real = mixed.outcomes
    assert abs(float(((label - survival) * real).sum(axis=1).mean())) < 0.3
    flat = np.broadcast_to((label * real).sum(axis=0) / real.sum(axis=0), survival.shape)
    assert disagreement(survival, mixed) > 3 * max(1.0, disagreement(flat, mixed))


def test_refit_recovers_a_distorted_temperature() -> None:
    fresh = rounds(256, 3, true=0.4)
    found = refit((None, None), rounds(512, 1, true=0.4), HALF)
    assert found is not None
    assert found.disagreement < 5

    def judged(survival: np.ndarray) -> float:
        told = report(("coupled", "greedy"), survival, fresh, trusted=True, breaks=0, refits=0)
        return float(np.mean([each for each in told.ece if each is not None]))

    before = judged(prefix_survival(fresh.confidence))
    after = judged(prefix_survival(fresh.confidence, found.temperatures, found.maps))
    assert after < 0.6 * before


def test_refit_flattens_confidences_that_say_nothing() -> None:
    found = refit((None, None), scrambled(rounds(512, 1)), HALF)
    assert found is not None
    fresh = scrambled(rounds(2000, 3))
    spread = prefix_survival(fresh.confidence, found.temperatures, found.maps).std(axis=0)
    assert (spread < 0.6 * prefix_survival(fresh.confidence).std(axis=0)).all()


def test_noise_does_not_replace_a_calibration_that_is_right() -> None:
    replaced = sum(refit((np.ones(GAMMA), None), rounds(512, seed), HALF) is not None for seed in range(100))
    assert replaced <= 2


@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 12))
def test_the_floor_is_below_what_was_seen_and_never_rises(seed: int, count: int, ends: int) -> None:
    seen = rounds(count, seed, ends=ends)
    floor = survival_floor(seen)
    label, real = seen.outcomes
    assert (np.diff(floor) <= 0).all()
    assert (floor >= 0).all()
    for slot in range(GAMMA):
        if real[:, slot].any():
            assert floor[slot] <= label[real[:, slot], slot].mean()
        else:
            assert floor[slot] == 0


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_slots_without_outcome_do_not_count(seed: int, count: int) -> None:
    seen = rounds(count, seed, ends=6)
    survival = prefix_survival(seen.confidence)
    _, real = seen.outcomes
    # survival beyond the answer's end, kept a survival: anything not above what is before it
    other = np.where(real, survival, np.minimum(survival, 0.01))
    key = ("coupled", "sampled")
    first, second = (report(key, each, seen, trusted=True, breaks=0, refits=0) for each in (survival, other))
    assert first == second
    assert disagreement(survival, seen) == pytest.approx(disagreement(other, seen), rel=1e-9)
    assert first.samples == tuple(real.sum(axis=0))


def test_the_report_equals_its_definitions() -> None:
    seen = Observations(np.zeros((3, 2), dtype=np.float32), np.array([2, 0, 1]), np.array([2, 2, 1]), np.arange(3))
    survival = np.array([[0.9, 0.8], [0.2, 0.1], [0.7, 0.6]])
    told = report(("coupled", "greedy"), survival, seen, trusted=False, breaks=1, refits=2)
    assert told.samples == (3, 2)
    assert told.auc == (1.0, 1.0)
    np.testing.assert_allclose(told.brier, ((0.01 + 0.04 + 0.09) / 3, (0.04 + 0.01) / 2))
    np.testing.assert_allclose(told.ece, ((0.1 + 0.2 + 0.3) / 3, (0.2 + 0.1) / 2))
    assert (told.trusted, told.breaks, told.refits) == (False, 1, 2)
