"""Whatever is measured and however it is corrected: costs rise with tokens and context, and are never flat."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from outrider.errors import CurveError
from outrider.scheduling import CostModel, CostSubject, StepCostCurve, read_costs, write_costs

SUBJECT = CostSubject("t", "cpu/float32/1", "compiled", "cpu x2")
SIZES = (1, 2, 8, 64)
CONTEXTS = (64, 256, 1024)
SECONDS = st.floats(1e-6, 10.0)
ROUNDING = 1e-9  # of interpolation, in seconds
FACTORS = st.lists(st.floats(1 / 3, 3.0), min_size=len(SIZES), max_size=len(SIZES))


@st.composite
def measured(draw: st.DrawFn) -> CostModel:
    """Costs from samples that need not be in any order."""
    samples = [(context, size, draw(SECONDS)) for context in CONTEXTS for size in SIZES]
    draft = StepCostCurve.measured([(size, draw(SECONDS)) for size in SIZES], may_be_flat=True)
    try:
        return CostModel.measured(samples, subject=SUBJECT, draft=draft)
    except CurveError as error:
        assume("flat" not in error.message)
        raise


def check(costs: CostModel) -> None:
    grid = np.arange(1, SIZES[-1] + 1)
    steps = np.array([costs.step(context).seconds_at(grid) for context in (0, 64, 100, 300, 1024, 5000)])
    assert (np.diff(steps, axis=1) >= -ROUNDING).all()
    assert (np.diff(steps, axis=0) >= -1e-9 * steps[1:]).all()
    assert all(not curve.flat for _, curve in costs.verify)
    if costs.draft is not None:
        assert (np.diff(costs.draft.seconds) >= 0).all()


@given(measured())
def test_measured_costs_rise_with_tokens_and_context(costs: CostModel) -> None:
    check(costs)


@given(measured(), FACTORS, FACTORS)
def test_corrected_costs_still_do(costs: CostModel, verify: list[float], draft: list[float]) -> None:
    scaled = costs.scaled(verify, draft)
    check(scaled)
    bounds = [(min(verify) * s * 0.999, max(verify) * s * 1.001) for s in costs.verify[0][1].seconds]
    assert all(low <= s <= high for s, (low, high) in zip(scaled.verify[0][1].seconds, bounds, strict=True))


@given(measured(), st.floats(64, 1024))
def test_an_interpolated_context_lies_between_its_neighbours(costs: CostModel, context: float) -> None:
    step = costs.step(context)
    place = max(i for i, (known, _) in enumerate(costs.verify[:-1]) if known <= max(64, context))
    for low, s, high in zip(costs.verify[0][1].seconds, step.seconds, costs.verify[-1][1].seconds, strict=True):
        assert low * (1 - 1e-9) <= s <= high * (1 + 1e-9)
    grain = 32
    if costs.verify[place][0] + grain < context < costs.verify[place + 1][0] - grain:
        pairs = zip(costs.verify[place][1].seconds, step.seconds, costs.verify[place + 1][1].seconds, strict=True)
        assert all(low * (1 - 1e-9) <= s <= high * (1 + 1e-9) for low, s, high in pairs)


@given(measured(), st.floats(0, 1), st.floats(0, 1))
def test_a_file_gives_back_every_bit(costs: CostModel, append_row_s: float, transfer_s: float) -> None:
    told = CostModel(costs.verify, costs.draft, append_row_s, transfer_s, costs.subject)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "costs.json"
        write_costs(path, told, {"noted": 1})
        assert read_costs(path) == told
        assert json.loads(path.read_text())["version"] == told.version
