"""What outcomes teach: coverage, bounds, forgetting."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.routing import Observed, Predictor
from outrider.routing import predictor as module
from outrider.types import PredictionBasis

BASIS = PredictionBasis(
    model="flash", replica="a", epoch=1, tenant="acme", domain="code", prompt_tokens=100, cached_tokens=0, running=2,
    queued=0, queued_tokens=0, places=32, ttft_s=0.02, tpot_s=0.002, accepted=(1.0, 1.6, 2.0), warm_s=60.0,
)  # fmt: skip


def happened(basis: PredictionBasis, ratio: float) -> Observed:
    return Observed(basis.ttft_s * ratio, basis.tpot_s * ratio, (32,))


def covered(predictor: Predictor, shift: float, width: float, seed: int, *, learns: bool = True) -> float:
    """Share of the later outcomes that its 90 % quantile of TTFT held, where truth is log-normal around a shift."""
    chance, held, judged = random.Random(seed), 0, 0
    for turn in range(1_600):
        ratio = math.exp(chance.gauss(shift, width))
        spread = predictor.state().spreads("flash", 2, 32, 100)[0]
        if turn >= 400:
            judged += 1
            held += math.log(ratio) <= spread.at(0.9)
        if learns:
            predictor.observe(BASIS, happened(BASIS, ratio))
    return held / judged


@settings(deadline=None, max_examples=12)
@given(st.floats(-1.0, 1.0), st.floats(0.1, 0.8), st.integers(0, 10_000))
def test_nine_of_ten_outcomes_are_within_the_quantile(shift: float, width: float, seed: int) -> None:
    assert 0.86 <= covered(Predictor(), shift, width, seed) <= 0.94


def test_a_predictor_that_never_learns_does_not_cover() -> None:
    """Negative control: the same judgement catches it on either side."""
    assert covered(Predictor(), 0.8, 0.3, 1, learns=False) < 0.5
    assert covered(Predictor(), -0.8, 0.1, 1, learns=False) > 0.99


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=400))
def test_corrections_stay_within_bounds_whatever_happens(ratios: list[float]) -> None:
    predictor = Predictor()
    for ratio in ratios:
        predictor.observe(BASIS, happened(BASIS, ratio))
    for spread in (*predictor.state().ttft.values(), *predictor.state().tpot.values()):
        assert abs(spread.median) <= module.SHIFT
        assert module.SPREAD[0] <= spread.upper - spread.median + 1e-9 <= module.SPREAD[1] + 2e-9


def test_a_few_outliers_do_not_move_the_median() -> None:
    predictor, chance = Predictor(), random.Random(3)
    for turn in range(320):
        predictor.observe(BASIS, happened(BASIS, 1e6 if turn % 20 == 0 else math.exp(chance.gauss(0, 0.1))))
    assert abs(predictor.state().ttft["flash"].median) < 0.05
    assert predictor.state().ttft["flash"].upper < 0.5


def test_cold_stale_and_split_requests_teach_nothing_of_times() -> None:
    predictor = Predictor()
    for basis in (replace(BASIS, warm_s=0.5), replace(BASIS, age_s=9.0), replace(BASIS, choices=2)):
        for _ in range(32):
            predictor.observe(basis, happened(basis, 3.0))
    assert (predictor.state().ttft, predictor.state().tpot) == ({}, {})
    assert predictor.state().lengths["flash"].at(0.5, 1000, 128) == 32


def test_an_old_load_is_forgotten() -> None:
    predictor = Predictor()
    for ratio in (3.0,) * 300 + (1.0,) * 300:
        predictor.observe(BASIS, happened(BASIS, ratio))
    assert abs(predictor.state().ttft["flash"].median) < 0.2


@settings(deadline=None, max_examples=10)
@given(st.floats(1.5, 4.0), st.integers(0, 1000))
def test_a_replica_that_became_slow_is_told_from_its_like(factor: float, seed: int) -> None:
    """Corrected medians of both are true, though the model's own lies between them."""
    predictor, chance = Predictor(), random.Random(seed)
    slow = {"a": 1.0, "b": factor}
    for turn in range(600):
        replica = "ab"[turn % 2]
        ratio = slow[replica] * math.exp(chance.gauss(0, 0.1))
        predictor.observe(replace(BASIS, replica=replica), happened(BASIS, ratio))
    for replica, true in slow.items():
        for spread in predictor.state().spreads("flash", 2, 32, 100, replica):
            assert 0.75 <= math.exp(spread.median) / true <= 1.3


def test_replicas_that_are_alike_share_what_is_known() -> None:
    predictor, chance = Predictor(), random.Random(5)
    for turn in range(600):
        predictor.observe(replace(BASIS, replica="ab"[turn % 2]), happened(BASIS, math.exp(chance.gauss(0.4, 0.1))))
    assert predictor.state().replicas == {}


def test_cells_are_bounded() -> None:
    predictor = Predictor()
    for name in range(module.MOST_CELLS + 50):
        predictor.observe(replace(BASIS, tenant=f"t{name}"), happened(BASIS, 1.0))
    assert len(predictor._lengths) <= module.MOST_CELLS


@pytest.mark.parametrize("limit", [40, 100, 400])
def test_answers_that_were_cut_count_as_longer_ones(limit: int) -> None:
    """Lengths are exponential around 100, every other answer is cut: counted as whole, 40 gives 66."""
    chance, means, medians = random.Random(limit), [], []
    for _ in range(40):
        predictor = Predictor()
        for turn in range(module.WINDOW):
            tokens = math.ceil(chance.expovariate(1 / 100))
            cut = turn % 2 == 0 and tokens > limit
            told = (limit if cut else tokens,)
            predictor.observe(BASIS, replace(happened(BASIS, 1.0), tokens=told, cut=cut))
        found = predictor.state().lengths["flash"]
        means.append(found.mean(10_000, 128))
        medians.append(found.at(0.5, 10_000, 128))
    assert 85 <= sum(means) / 40 <= 115
    assert 60 <= sum(medians) / 40 <= 80, "the true median is 69"


def test_where_all_were_cut_the_limit_is_expected() -> None:
    predictor = Predictor()
    for _ in range(32):
        predictor.observe(BASIS, replace(happened(BASIS, 1.0), tokens=(64,), cut=True))
    found = predictor.state().lengths["flash"]
    assert (found.mean(64, 128), found.at(0.9, 64, 128)) == (64, 64)
    assert 64 < found.mean(256, 128) < 256, "what comes after the cut is not known"


def test_a_tenant_whose_drafts_are_accepted_more_is_told_apart() -> None:
    predictor = Predictor()
    for tenant, accepted in (("lucky", 2), ("unlucky", 0)):
        for _ in range(64):
            basis = replace(BASIS, tenant=tenant)
            predictor.observe(basis, Observed(0.02, 0.002, (32,), [(2, accepted)] * 4))
    state = predictor.state()
    assert state.accepted_ratio("lucky", "code", "flash") > 1.5
    assert state.accepted_ratio("unlucky", "code", "flash") == module.RATIO[0]
    assert state.accepted_ratio("somebody", "prose", "flash") == 1.0
