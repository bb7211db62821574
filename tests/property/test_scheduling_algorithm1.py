"""Algorithm 1 against a loop that is the paper's pseudocode, and the properties that make it safe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from outrider.scheduling import StepCostCurve, algorithm1

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 0.9, 1.0)  # few values, so that ties are common


def naive(
    survival: NDArray[np.float64],
    caps: NDArray[np.int64],
    curve: StepCostCurve,
    fixed_s: float,
    other_tokens: int,
    weights: NDArray[np.float64] | None = None,
) -> list[int]:
    requests, slots = survival.shape
    weight = np.ones(requests) if weights is None else weights
    depths = [0] * requests
    candidates = [(-weight[r] * survival[r, j], j, r) for r in range(requests) for j in range(slots) if j < caps[r]]
    expected, tokens = float(weight.sum()), other_tokens + requests
    theta = expected / (fixed_s + float(curve.seconds_at(tokens)))
    for negative, _, owner in sorted(candidates):
        raised = (expected - negative) / (fixed_s + float(curve.seconds_at(tokens + 1)))
        if raised <= theta:
            break
        expected, tokens, theta = expected - negative, tokens + 1, raised
        depths[owner] += 1
    return depths


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.int64], StepCostCurve, float, int]:
    requests, slots = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    conditional = draw(
        st.lists(st.sampled_from(LEVELS), min_size=requests * slots, max_size=requests * slots).map(np.array)
    )
    survival = np.cumprod(conditional.reshape(requests, slots), axis=1)
    caps = np.array(draw(st.lists(st.integers(0, 9), min_size=requests, max_size=requests)))
    rises = draw(st.lists(st.sampled_from((0.0, 0.01, 0.1, 1.0)), min_size=4, max_size=4))
    seconds = np.cumsum([1.0, *rises])
    curve = StepCostCurve((1, 4, 8, 16, 40), tuple(float(s) for s in seconds), "drawn")
    return survival, caps, curve, draw(st.sampled_from((0.0, 0.3, 5.0))), draw(st.integers(0, 20))


@given(rounds())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_equals_the_naive_loop(drawn: tuple[NDArray[np.float64], NDArray[np.int64], StepCostCurve, float, int]) -> None:
    survival, caps, curve, fixed_s, others = drawn
    depths = algorithm1(survival, caps, curve, fixed_s=fixed_s, other_tokens=others)
    assert depths.tolist() == naive(survival, caps, curve, fixed_s, others)
    assert (depths <= np.minimum(caps, survival.shape[1])).all()
    assert (depths >= 0).all()


@given(rounds(), st.lists(st.sampled_from((0.25, 0.5, 1.0, 2.0, 4.0)), min_size=6, max_size=6))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_weighted_it_still_equals_the_naive_loop(
    drawn: tuple[NDArray[np.float64], NDArray[np.int64], StepCostCurve, float, int], drawn_weights: list[float]
) -> None:
    survival, caps, curve, fixed_s, others = drawn
    weights = np.array(drawn_weights[: len(survival)])
    depths = algorithm1(survival, caps, curve, fixed_s=fixed_s, other_tokens=others, weights=weights)
    assert depths.tolist() == naive(survival, caps, curve, fixed_s, others, weights)


def test_a_heavier_request_is_served_first() -> None:
    curve = StepCostCurve((1, 5, 6), (1.0, 1.0, 9.0), "wall at five tokens")
    survival = np.array([[0.9, 0.8, 0.7], [0.5, 0.4, 0.3]])
    caps = np.array([3, 3])
    assert algorithm1(survival, caps, curve).tolist() == [3, 0]
    assert algorithm1(survival, caps, curve, weights=np.array([1.0, 4.0])).tolist() == [0, 3]


@given(rounds(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_lies_behind_the_admitted_prefix_cannot_change_it(
    drawn: tuple[NDArray[np.float64], NDArray[np.int64], StepCostCurve, float, int], seed: int
) -> None:
    """Non-anticipation: ℓ_r ≥ k is decided without the survival of anything after slot k of that request."""
    survival, caps, curve, fixed_s, others = drawn
    depths = algorithm1(survival, caps, curve, fixed_s=fixed_s, other_tokens=others)
    changed = survival.copy()
    for row, depth in enumerate(depths):
        after = int(depth) + 1
        worse = np.random.default_rng(seed).random(max(0, survival.shape[1] - after))
        changed[row, after:] = (survival[row, depth] if depth < survival.shape[1] else 0.0) * np.cumprod(worse)
    again = algorithm1(changed, caps, curve, fixed_s=fixed_s, other_tokens=others)
    assert again.tolist() == depths.tolist()


def test_by_hand() -> None:
    """Two requests; T(B) = 1 + B/10. Θ: 2/1.2 = 1.667, +.9 2.9/1.3 = 2.231, +.8 3.7/1.4 = 2.643, +.72 4.42/1.5 = 2.947,
    +.4 4.82/1.6 = 3.013, +.3 5.12/1.7 = 3.012: stop."""
    survival = np.array([[0.9, 0.72, 0.3], [0.8, 0.4, 0.2]])
    curve = StepCostCurve((0, 10), (1.0, 2.0), "line")
    assert algorithm1(survival, np.array([7, 7]), curve).tolist() == [2, 2]
    assert algorithm1(survival, np.array([1, 7]), curve).tolist() == [1, 2]
    assert algorithm1(survival, np.array([0, 0]), curve).tolist() == [0, 0]
    assert algorithm1(survival, np.array([7, 7]), curve, fixed_s=3.0).tolist() == [3, 3]


def test_stops_at_the_first_admission_that_does_not_help_even_if_a_later_one_would() -> None:
    """A staircase: the step to five tokens is dear, the next ones are free. Early stopping does not look past it."""
    curve = StepCostCurve((1, 4, 5, 64), (1.0, 1.0, 2.0, 2.0), "stairs")
    assert algorithm1(np.full((1, 7), 0.9), np.array([7]), curve).tolist() == [3]


def test_an_equal_throughput_is_not_strictly_more() -> None:
    flat = StepCostCurve((1, 64), (1.0, 1.0), "flat")
    assert algorithm1(np.array([[0.5, 0.0, 0.0]]), np.array([3]), flat).tolist() == [1]


def test_ties_go_to_the_earlier_slot_and_then_the_earlier_request() -> None:
    curve = StepCostCurve((1, 6, 7), (1.0, 1.0, 9.0), "wall at six tokens")
    survival = np.array([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5], [0.5, 0.5, 0.1]])
    assert algorithm1(survival, np.array([3, 3, 3]), curve).tolist() == [1, 1, 1]
    assert algorithm1(survival, np.array([3, 3, 3]), curve, other_tokens=1).tolist() == [1, 1, 0]


def test_prefill_and_fixed_costs_change_the_depth() -> None:
    """A dear round makes each extra token cheap in proportion, a crowd on the steep part of the curve does not."""
    curve = StepCostCurve((1, 64, 128), (1.0, 1.1, 8.0), "knee")
    survival = np.cumprod(np.full((1, 7), 0.6), axis=1)
    cap = np.array([7])
    free, crowded = algorithm1(survival, cap, curve), algorithm1(survival, cap, curve, other_tokens=64)
    assert free.tolist() == [7]
    assert crowded[0] < free[0]
    assert algorithm1(survival, cap, curve, other_tokens=64, fixed_s=20.0)[0] > crowded[0]


@pytest.mark.parametrize("requests", [1, 3])
def test_no_slots_or_no_caps(requests: int) -> None:
    curve = StepCostCurve((1, 64), (1.0, 2.0), "line")
    assert algorithm1(np.empty((requests, 0)), np.full(requests, 7), curve).tolist() == [0] * requests
