"""Committed device profiles: what the check writes is read back, and what is no profile is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outrider import profiles
from outrider.errors import CurveError
from outrider.scheduling import CostModel, CostSubject, StepCostCurve, costs_document

COSTS = CostModel.measured(
    [(64, 1, 0.001), (64, 8, 0.002), (1024, 1, 0.003), (1024, 8, 0.005)],
    subject=CostSubject("digest", "cuda/bfloat16/1", "FlatQwen3", "card x1"),
    draft=StepCostCurve.measured([(1, 0.001), (8, 0.004)]),
)


def document() -> dict[str, Any]:
    return {
        "format": profiles.FORMAT,
        "device": {"type": "cuda", "name": "card"},
        "versions": {"torch": "2"},
        "configuration": {"model": "8b"},
        "figures": [
            {"name": "copy", "unit": "GB/s", "value": 3.5},
            {"name": "gap", "unit": "share", "value": None, "reason": "no time left"},
        ],
        "costs": costs_document(COSTS, {}),
    }


def written(folder: Path, change: Callable[[dict[str, Any]], object] = lambda held: held) -> Path:
    held = document()
    change(held)
    file = folder / "card.json"
    file.write_text(json.dumps(held), "utf-8")
    return file


def test_a_profile_gives_costs_and_measured_figures(tmp_path: Path) -> None:
    profile = profiles.read(written(tmp_path))
    assert profile.costs == COSTS
    assert (profile.name, profile.model, dict(profile.figures)) == ("card", "8b", {"copy": 3.5})
    assert profile.costs.draft_s(8, 0) == pytest.approx(0.004)


def test_a_profile_may_lack_costs(tmp_path: Path) -> None:
    assert profiles.read(written(tmp_path, lambda held: held.update(costs=None))).costs is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda held: held.update(format=2), "format: 2"),
        (lambda held: held["device"].update(type="cpu"), "without a GPU is no profile"),
        (lambda held: held.pop("versions"), "versions: an object is missing"),
        (lambda held: held.update(figures={}), "figures: a list"),
        (lambda held: held["figures"][0].update(value="fast"), "copy: 'fast' is no number"),
        (lambda held: held["costs"]["subject"].update(target="other"), "costs: fingerprint"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, change: Callable[[Any], object], told: str) -> None:
    with pytest.raises(CurveError, match=told.replace("(", r"\(")):
        profiles.read(written(tmp_path, change))


def test_unknown_names_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CurveError, match="no profile of a device 'abacus'"):
        profiles.load("abacus")
    with pytest.raises(CurveError, match="cannot read"):
        profiles.read(tmp_path / "absent.json")


@pytest.mark.parametrize("name", profiles.names() or [pytest.param("", marks=pytest.mark.skip("none was committed"))])
def test_every_committed_profile_is_readable(name: str) -> None:
    assert profiles.load(name).figures
