"""Whatever a calibration says, survival stays a survival: in [0, 1], never rising along the block, row by row."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from outrider.scheduling import Calibration, prefix_survival
from outrider.scheduling.calibration import SurvivalMap

UNIT = st.floats(0, 1)
LOGIT = st.one_of(st.floats(-60, 60, width=32), st.just(-np.inf))


@st.composite
def survival_maps(draw: st.DrawFn) -> SurvivalMap:
    inputs = sorted(draw(st.lists(UNIT, min_size=1, max_size=6, unique=True)))
    outputs = sorted(draw(st.lists(UNIT, min_size=len(inputs), max_size=len(inputs))))
    return SurvivalMap(np.array(inputs), np.array(outputs))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Calibration, NDArray[np.float64], NDArray[np.float64]]:
    gamma, rows = draw(st.integers(1, 5)), draw(st.integers(0, 6))
    temperatures, maps = {}, {}
    for kind in ("greedy", "sampled"):
        if draw(st.booleans()):
            scales = draw(st.lists(st.floats(0.25, 4), min_size=gamma, max_size=gamma))
            temperatures["coupled", kind] = np.array(scales)
        if draw(st.booleans()):
            maps["coupled", kind] = tuple(draw(survival_maps()) for _ in range(gamma))
    logits = draw(st.lists(LOGIT, min_size=rows * gamma, max_size=rows * gamma))
    sampled = draw(st.lists(st.sampled_from([0.0, 0.7, 1.0]), min_size=rows, max_size=rows))
    return Calibration(gamma, temperatures, maps), np.array(logits).reshape(rows, gamma), np.array(sampled)


@given(cases())
def test_survival_stays_in_range_and_never_rises(
    case: tuple[Calibration, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    calibration, logits, temperature = case
    found = calibration.survival(logits, temperature)
    assert found.shape == logits.shape
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found, axis=1) <= 0).all()
    assert (found[prefix_survival(logits) == 0] == 0).all()  # nothing proposed, nothing to verify


@given(cases())
def test_rows_do_not_know_each_other_and_absence_changes_nothing(
    case: tuple[Calibration, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    calibration, logits, temperature = case
    found = calibration.survival(logits, temperature)
    for row in range(len(logits)):
        alone = calibration.survival(logits[row : row + 1], temperature[row : row + 1])
        assert (alone[0] == found[row]).all()
        key = ("coupled", "sampled" if temperature[row] > 0 else "greedy")
        if key not in calibration.maps:
            assert (alone == prefix_survival(logits[row : row + 1], calibration.temperatures.get(key))).all()


@given(survival_maps(), st.lists(UNIT, min_size=2, max_size=20))
def test_a_map_keeps_order(each: SurvivalMap, chances: list[float]) -> None:
    assert (np.diff(each(np.sort(chances))) >= 0).all()
