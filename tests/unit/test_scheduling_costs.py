"""Costs of a round: monotone in tokens and context, never flat, kept in files that say what they were measured of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import CurveError, OutputNotWritable
from outrider.scheduling import CostModel, CostSubject, StepCostCurve, read_costs, write_costs

SUBJECT = CostSubject("t1", "cpu/float32/1", "compiled", "A processor x2", "d1", "cpu/float32/1", "process")
NEAR = StepCostCurve.measured([(1, 0.001), (8, 0.002), (64, 0.010)])
FAR = StepCostCurve.measured([(1, 0.002), (8, 0.004), (64, 0.022)])
DRAFT = StepCostCurve.measured([(1, 0.001), (8, 0.001)], may_be_flat=True)
COSTS = CostModel(((64, NEAR), (1024, FAR)), DRAFT, append_row_s=1e-5, transfer_s=2e-4, subject=SUBJECT)


def test_a_context_between_two_measured_ones_costs_what_lies_between() -> None:
    middle = COSTS.step(544)
    assert middle.seconds == pytest.approx((0.0015, 0.003, 0.016))
    assert middle.hull.seconds[-1] == middle.seconds[-1]
    assert COSTS.step(545) is middle


@pytest.mark.parametrize(("context", "curve"), [(0, NEAR), (64, NEAR), (1024, FAR), (40_000, FAR)])
def test_outside_of_what_was_measured_the_nearest_context_counts(context: int, curve: StepCostCurve) -> None:
    assert COSTS.step(context).seconds == curve.seconds


def test_a_given_curve_holds_at_every_context() -> None:
    assert all(CostModel.given(NEAR).step(context) is NEAR for context in (0, 100, 10_000))


def test_a_noisy_context_is_pooled_with_its_neighbour() -> None:
    samples = [(64, 1, 1.0), (64, 8, 5.0), (256, 1, 0.8), (256, 8, 6.0)]
    costs = CostModel.measured(samples, subject=SUBJECT)
    assert costs.points() == ((64, ((1, 0.9), (8, 5.0))), (256, ((1, 0.9), (8, 6.0))))


def test_a_draft_is_priced_with_the_rows_it_catches_up() -> None:
    assert COSTS.draft_s(4, 100) == pytest.approx(0.001 + 100 * 1e-5)
    assert replace(COSTS, draft=None).draft_s(4, 100) == 0.0


def test_the_version_follows_the_content() -> None:
    assert replace(COSTS).version == COSTS.version
    others = [replace(COSTS, append_row_s=2e-5), replace(COSTS, draft=None), CostModel(((64, NEAR),))]
    assert len({COSTS.version, *(other.version for other in others)}) == 4


@pytest.mark.parametrize(
    ("verify", "says"),
    [
        ((), "one context or more"),
        (((64, NEAR), (64, FAR)), "ascending"),
        (((1024, NEAR), (64, FAR)), "ascending"),
        (((64, FAR), (1024, NEAR)), "cheaper at context 1024"),
        (((64, NEAR), (128, StepCostCurve.measured([(1, 1.0), (4, 2.0)]))), "other sizes"),
    ],
)
def test_what_is_no_cost_model_is_refused(verify: tuple[tuple[int, StepCostCurve], ...], says: str) -> None:
    with pytest.raises(CurveError, match=says):
        CostModel(verify)


def test_a_flat_curve_is_refused_at_any_context() -> None:
    with pytest.raises(CurveError, match="flat"):
        CostModel.measured([(64, 1, 1.0), (64, 8, 2.0), (256, 1, 2.0), (256, 8, 2.01)], subject=SUBJECT)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "costs.json"
    write_costs(path, COSTS, {"load_average": [1.0]})
    assert read_costs(path) == COSTS
    assert read_costs(path).version == COSTS.version
    write_costs(path, replace(COSTS, draft=None), {})
    assert read_costs(path).draft is None


def test_a_file_that_cannot_be_written_is_the_operators_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match=r"costs\.json"):
        write_costs(tmp_path / "file" / "costs.json", COSTS, {})


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(held: Any) -> None:
        for step in path[:-1]:
            held = held[step]
        held[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_set("format", to=99), "format"),
        (_set("subject", to=None), "subject"),
        (_set("subject", "cpu", to=3), "subject.cpu"),
        (_set("subject", "cpu", to="another"), "fingerprint"),
        (_set("fingerprint", to=None), "fingerprint"),
        (_set("verify", to="none"), "verify"),
        (_set("verify", to=[]), "verify"),
        (_set("verify", 0, "context_tokens", to="64"), "context_tokens"),
        (_set("verify", 1, "points", to=[[1, 1.0]]), "verify[1].points"),
        (_set("verify", 1, "points", 0, to=[1]), "verify[1].points"),
        (_set("verify", 1, "points", 0, to=[float("inf"), 1.0]), "verify[1].points"),
        (_set("verify", 1, "points", 0, 1, to=float("nan")), "verify[1].points"),
        (_set("verify", 1, "points", 0, 1, to=True), "verify[1].points"),
        (_set("verify", 1, "points", 0, 1, to=0.5), "verify[1].points"),
        (_set("verify", 1, "points", to=[[8, 0.1], [1, 0.2]]), "verify[1].points"),
        (_set("verify", 0, "points", to=[[1, 0.1], [8, 0.1], [64, 0.1]]), "flat"),
        (_set("draft", to=[]), "draft"),
        (_set("draft", "points", to=[[1, -1.0], [2, 1.0]]), "draft.points"),
        (_set("append_row_s", to=-1), "append_row_s"),
        (_set("transfer_s", to=None), "transfer_s"),
    ],
)
def test_a_changed_file_is_refused_by_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], field: str
) -> None:
    path = tmp_path / "costs.json"
    write_costs(path, COSTS, {})
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    with pytest.raises(CurveError) as caught:
        read_costs(path)
    assert caught.value.message.startswith("costs.json: ")
    assert field in caught.value.message
    assert "outrider profile" in caught.value.message


@pytest.mark.parametrize("content", [None, "{", "[]", "\xff"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "costs.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CurveError, match=r"costs\.json"):
        read_costs(path)


def test_stale_costs_are_refused_with_what_differs_and_the_command() -> None:
    COSTS.check_subject(SUBJECT, source="costs.json", renew="outrider profile pro")
    here = replace(SUBJECT, cpu="B processor x8", drafter="")
    with pytest.raises(CurveError) as caught:
        COSTS.check_subject(here, source="costs.json", renew="outrider profile pro")
    assert caught.value.message == (
        "costs.json: stale: cpu is A processor x2, not B processor x8; drafter is d1, not none; "
        "renew it: outrider profile pro"
    )
    assert SUBJECT.fingerprint != here.fingerprint
    with pytest.raises(CurveError, match="were not measured"):
        CostModel.given(NEAR).check_subject(SUBJECT, source="costs.json", renew="outrider profile pro")
