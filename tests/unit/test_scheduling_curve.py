"""A step-cost curve is monotone, extrapolates its last slope, and is refused when it would make verification free."""

from __future__ import annotations

import numpy as np
import pytest

from outrider.errors import CurveError
from outrider.scheduling import StepCostCurve


def test_medians_are_pooled_until_they_ascend() -> None:
    curve = StepCostCurve.measured(
        [(1, 1.0), (1, 9.0), (1, 1.2), (2, 3.0), (4, 2.0), (8, 4.0), (16, 3.5), (32, 3.0), (64, 8.0)]
    )
    assert curve.tokens == (1, 2, 4, 8, 16, 32, 64)
    assert curve.seconds == pytest.approx((1.2, 2.5, 2.5, 3.5, 3.5, 3.5, 8.0))
    assert curve.points()[1] == pytest.approx((2, 2.5))


def test_pools_grow_backwards_until_nothing_descends() -> None:
    values = [3.0, 1.0, 2.0]
    curve = StepCostCurve.measured([(1, 1.5), *((i + 2, v) for i, v in enumerate(values)), (9, 4.0)])
    assert curve.seconds == pytest.approx((1.5, 2.0, 2.0, 2.0, 4.0))


def test_a_monotone_curve_is_left_alone() -> None:
    samples = [(1, 0.01), (8, 0.018), (64, 0.05)]
    curve = StepCostCurve.measured(samples)
    assert curve.points() == tuple(samples)
    assert curve.seconds_at(8) == pytest.approx(0.018)


def test_between_points_it_is_linear_and_beyond_them_the_last_slope_goes_on() -> None:
    curve = StepCostCurve.measured([(2, 1.0), (4, 2.0), (8, 6.0)])
    assert curve.seconds_at(np.array([1, 2, 3, 6, 8, 9, 12])) == pytest.approx([1.0, 1.0, 1.5, 4.0, 6.0, 7.0, 10.0])
    assert (np.diff(curve.seconds_at(np.arange(1, 100))) >= 0).all()


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [(4, 1.0)],
        [(4, 1.0), (4, 2.0)],
        [(0, 1.0), (4, 2.0)],
        [(1, 0.0), (4, 2.0)],
        [(1, -1.0), (4, 2.0)],
        [(1, 1.0), (4, float("nan"))],
        [(1, 1.0), (4, float("inf"))],
        [(1, 1.0), (4, 1.0)],
        [(1, 2.0), (4, 1.0)],
        [(1, 1.0), (256, 1.01)],
    ],
)
def test_flat_empty_and_absurd_curves_are_refused(samples: list[tuple[int, float]]) -> None:
    with pytest.raises(CurveError):
        StepCostCurve.measured(samples)


def test_the_version_follows_the_content() -> None:
    one, same, other = (StepCostCurve.measured([(1, 1.0), (4, last)]) for last in (2.0, 2.0, 2.1))
    assert one.version == same.version != other.version
