"""Judging estimates: they are measured against a known truth, and shuffled outcomes teach nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from outrider.errors import EvalMismatch
from outrider.quality import Assessor, Judgement, Pair, fit_assessor, held_out, judge
from outrider.quality.measures import auc, bins, calibration_error, resampled
from outrider.quality.trading import at_floor, at_share
from support.quality import make_pairs, true_success


def shuffled(pairs: list[Pair]) -> list[Pair]:
    outcomes = [pair.correct for pair in pairs]
    random.Random(5).shuffle(outcomes)
    return [replace(pair, correct=correct) for pair, correct in zip(pairs, outcomes, strict=True)]


@pytest.fixture(scope="module")
def assessor() -> Assessor:
    return fit_assessor(make_pairs(3000), {}, share=0.3)


@pytest.fixture(scope="module")
def judgement(assessor: Assessor) -> Judgement:
    return judge(assessor, make_pairs(3000))


def test_estimates_come_near_to_the_truth(judgement: Judgement) -> None:
    unseen = [pair for pair in make_pairs(3000) if held_out(pair.group, 0.3)]
    assert judgement.items == judgement.groups == len(unseen)
    assert judgement.estimated > 0.95
    assert judgement.domains.right > 0.95
    for model, found in judgement.models.items():
        truth = np.array([true_success(pair.text)[model] for pair in unseen])
        right = np.array([float(pair.correct[model]) for pair in unseen])
        best = np.square(truth - right).mean()
        assert best - 0.005 < found.brier < best + 0.01 < found.brier_by_domain
        assert found.auc == pytest.approx(auc(truth, right), abs=0.04)
        assert found.skill_interval.low > 0
        assert found.calibration_error < found.calibration_error_by_chance + 0.05
        assert sum(part.items for part in found.bins) == found.items


def test_shuffled_outcomes_teach_nothing() -> None:
    pairs = shuffled(make_pairs(3000))
    found = judge(fit_assessor(pairs, {}, share=0.3), pairs)
    for each in found.models.values():
        assert each.auc_interval.low < 0.5 < each.auc_interval.high
        assert each.brier > each.brier_constant - 0.002
        assert each.skill_interval.low < 0.0
        assert each.calibration_error < each.calibration_error_by_chance + 0.05


def test_a_floor_is_kept_where_it_is_promised(judgement: Judgement) -> None:
    for each in judgement.floors:
        if each.right is not None and each.promised is not None:
            assert each.promised >= each.floor
            assert each.share < 0.1 or each.right == pytest.approx(each.promised, abs=0.08)
    shares = [each.share for each in judgement.floors]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_estimates_trade_better_than_chance(judgement: Judgement) -> None:
    middle = next(each for each in judgement.trades if each.share == 0.5)
    assert middle.quality > middle.at_random + 0.02
    assert middle.quality > middle.by_domain


def test_items_that_were_fitted_on_are_no_evidence(assessor: Assessor) -> None:
    seen = [pair for pair in make_pairs(3000) if not held_out(pair.group, 0.3)]
    with pytest.raises(EvalMismatch, match="held out"):
        judge(assessor, seen)


def test_results_of_other_models_and_prompts_of_another_kind_are_refused(assessor: Assessor) -> None:
    with pytest.raises(EvalMismatch, match="estimates large, small"):
        judge(assessor, [replace(pair, correct={"else": True}) for pair in make_pairs(200)])
    with pytest.raises(EvalMismatch, match="like those"):
        judge(assessor, [replace(pair, text="¿Qué hora es?") for pair in make_pairs(200)])


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(3)
    said, right = rng.integers(0, 6, 60) / 5, rng.integers(0, 2, 60).astype(np.float64)
    times = rng.integers(0, 3, 60).astype(np.float64)
    good, bad = said[right == 1], said[right == 0]
    by_hand = np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])
    assert auc(said, right) == pytest.approx(by_hand)
    repeated = np.repeat(np.arange(60), times.astype(int))
    assert auc(said, right, times) == pytest.approx(auc(said[repeated], right[repeated]))
    assert auc(said, np.ones(60)) is None


def test_bins_and_their_error_by_hand() -> None:
    said, right = np.repeat((0.2, 0.9), 50), np.repeat((0.0, 1.0), 50)
    assert [part.items for part in bins(said, right)] == [10] * 10
    assert calibration_error(said, right) == pytest.approx(0.5 * 0.2 + 0.5 * 0.1)
    assert len(bins(said[:3], right[:3])) == 3


def test_groups_are_resampled_whole() -> None:
    values = np.repeat((0.0, 1.0), 50)
    by_item = resampled(np.arange(100), lambda times: float(times @ values / times.sum()))
    by_two = resampled(np.repeat((0, 1), 50), lambda times: float(times @ values / times.sum()))
    assert (by_two.low, by_two.high) == (0.0, 1.0)
    assert 0.35 < by_item.low < 0.5 < by_item.high < 0.65


def test_floors_and_shares_by_hand() -> None:
    estimates = np.array([[0.9, 0.9], [0.6, 0.9], [0.2, 0.9], [0.2, 0.3]])
    correct = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    found = at_floor(0.5, estimates, correct)
    assert (found.share, found.right, found.quality) == (0.5, 0.5, 0.5)
    assert found.promised == pytest.approx(0.75)
    assert at_floor(0.95, estimates, correct).right is None
    domain = np.array([[0.5, 0.7]] * 4)
    trade = at_share(0.5, estimates, domain, correct)
    assert (trade.quality, trade.by_domain, trade.at_random) == (1.0, 0.625, 0.625)
