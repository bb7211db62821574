"""Costs follow real rounds slowly and within bounds; cold rounds and outliers teach nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.engine.load import RoundTimes
from outrider.engine.refining import Refinement, RoundShape
from outrider.scheduling import CostModel, CostSubject, StepCostCurve

SUBJECT = CostSubject("t", "cpu/float32/1", "compiled", "cpu x2")
NEAR = StepCostCurve.measured([(1, 0.001), (8, 0.002), (64, 0.010), (256, 0.040)])
FAR = StepCostCurve.measured([(1, 0.002), (8, 0.004), (64, 0.020), (256, 0.080)])
DRAFT = StepCostCurve.measured([(1, 0.001), (8, 0.002), (32, 0.004)], may_be_flat=True)
COSTS = CostModel(((64, NEAR), (1024, FAR)), DRAFT, append_row_s=1e-5, subject=SUBJECT)


def shape(tokens: int = 8, *, drafted: int = 0, rows: int = 0) -> RoundShape:
    return RoundShape(tokens, 1, 64.0, drafted, rows)


def play(
    refinement: Refinement, of: RoundShape, rounds: int, *, slower: float = 1.0, draft_slower: float = 1.0
) -> list[RoundTimes]:
    """Rounds that take what was measured, times a factor."""
    played = []
    for _ in range(rounds):
        if not refinement.due():
            continue
        run_s = slower * COSTS.step(of.context_tokens).step_s(of.tokens)
        draft_s = draft_slower * COSTS.draft_s(of.drafted, of.rows) if of.drafted else 0.0
        predicted_s = refinement.predicted_s(of)
        times = RoundTimes(draft_s, 0.0001, run_s, 0.0002, of.tokens, 1, predicted_s)
        refinement.add(of, times)
        played.append(times)
    return played


def test_predictions_become_right() -> None:
    refinement = Refinement(COSTS)
    first, *_, last = play(refinement, shape(drafted=4, rows=12), 2400, slower=1.5, draft_slower=0.7)
    assert first.predicted_s == 0.0
    assert last.predicted_s == pytest.approx(last.whole_s, rel=0.04)
    assert refinement.costs.step(64).step_s(8) == pytest.approx(1.5 * 0.002, rel=0.04)
    assert refinement.costs.draft_s(4, 0) < COSTS.draft_s(4, 0)
    assert refinement.error.value < 0.1
    assert not refinement.drifted


def test_what_a_size_took_under_another_load_is_forgotten() -> None:
    """Sizes that nobody asked for since follow their neighbours back."""
    refinement = Refinement(COSTS)
    play(refinement, shape(64), 2400, slower=2.5)
    assert refinement.costs.step(64).step_s(256) == pytest.approx(2.5 * 0.040, rel=0.04)
    play(refinement, shape(1), 4800)
    assert refinement.costs.step(64).step_s(256) == pytest.approx(0.040, rel=0.04)


def test_a_correction_holds_at_every_context_and_for_sizes_not_seen() -> None:
    refinement = Refinement(COSTS)
    play(refinement, shape(8), 2400, slower=1.5)
    for context in (64, 500, 1024):
        ratios = refinement.costs.step(context).seconds_at(np.array([1, 8, 64, 256])) / COSTS.step(context).seconds_at(
            np.array([1, 8, 64, 256])
        )
        assert ratios == pytest.approx([1.5] * 4, rel=0.04)


def test_the_first_rounds_and_those_after_a_pause_are_left_out() -> None:
    refinement = Refinement(COSTS)
    play(refinement, shape(), 3, slower=2.5)
    play(refinement, shape(), 800)
    for _ in range(50):
        refinement.cool()
        play(refinement, shape(), 3, slower=2.5)
    play(refinement, shape(), 200)
    assert refinement.costs is COSTS
    assert refinement.error.value == pytest.approx(0.0, abs=1e-9)


def test_outliers_are_left_out_until_they_are_the_rule() -> None:
    refinement = Refinement(COSTS)
    for _ in range(320):
        play(refinement, shape(), 3)
        play(refinement, shape(), 2, slower=50.0)
    assert refinement.costs is COSTS
    assert not refinement.drifted
    play(refinement, shape(), 800, slower=50.0)
    assert refinement.drifted
    assert refinement.costs.step(64).step_s(8) <= 3.0 * 0.002 * 1.0001


def test_nothing_is_foretold_of_a_draft_that_was_never_measured() -> None:
    undrafted = Refinement(CostModel(((64, NEAR),), subject=SUBJECT))
    for _ in range(20):
        undrafted.add(shape(drafted=1), RoundTimes(0.002, 0.0, 0.002, 0.0, 8, 1))
    assert undrafted.predicted_s(shape(drafted=1)) == 0.0
    play(undrafted, shape(), 80)
    assert undrafted.predicted_s(shape()) > 0.0


def test_too_low_a_prediction_shows_as_a_negative_bias() -> None:
    refinement = Refinement(COSTS)
    play(refinement, shape(), 48)
    play(refinement, shape(), 48, slower=1.5)
    assert refinement.bias.value < -0.05
    assert refinement.error.value == pytest.approx(-refinement.bias.value)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 300), st.integers(0, 40), st.integers(0, 200), st.floats(0.001, 1000.0), st.integers(1, 480)
        ),
        max_size=12,
    )
)
def test_whatever_rounds_take_costs_stay_bounded_monotone_and_not_flat(
    plays: list[tuple[int, int, int, float, int]],
) -> None:
    refinement = Refinement(COSTS)
    before = COSTS
    for tokens, drafted, rows, slower, rounds in plays:
        play(refinement, shape(tokens, drafted=drafted, rows=rows), rounds, slower=slower, draft_slower=slower)
        costs = refinement.costs
        for (_, curve), (_, measured) in zip(costs.verify, COSTS.verify, strict=True):
            assert list(curve.seconds) == sorted(curve.seconds)
            assert not curve.flat
            assert all(s / 3.001 <= now <= s * 3.001 for s, now in zip(measured.seconds, curve.seconds, strict=True))
        steps = 1 + rounds // 64
        moves = zip(before.verify[0][1].seconds, costs.verify[0][1].seconds, strict=True)
        assert all(abs(math.log(now / was)) <= 3 * 0.2 * steps for was, now in moves)
        before = costs
