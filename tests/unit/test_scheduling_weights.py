"""Weights of batch classes in Algorithm 1: they buy depth where verification is scarce, and nothing else."""

from __future__ import annotations

import numpy as np

from outrider.scheduling import StepCostCurve, algorithm1

CURVE = StepCostCurve.measured([(1, 0.002), (8, 0.004), (64, 0.030)])
SURVIVAL = np.cumprod(np.full((4, 7), 0.75), axis=1)
CAPS = np.full(4, 7)


def depths(weights: list[float] | None) -> list[int]:
    array = None if weights is None else np.array(weights)
    return algorithm1(SURVIVAL, CAPS, CURVE, fixed_s=0.002, weights=array).tolist()


def test_equal_weights_change_nothing() -> None:
    assert depths([1.0] * 4) == depths(None)
    assert depths([3.0] * 4) == depths(None)


def test_the_heavier_request_is_verified_deeper() -> None:
    weighted = depths([4.0, 1.0, 1.0, 1.0])
    assert weighted[0] > weighted[1] == weighted[2] == weighted[3]
    assert weighted[0] > depths(None)[0]
