"""Applying calibration.json: probabilities, classes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outrider.errors import DrafterMismatch
from outrider.scheduling import Calibration, prefix_survival
from support.engines import make_engine, prompts, request, run
from support.tiny import make_drafter, make_target

GOOD: dict[str, Any] = {
    "format_version": 1,
    "block_size": 2,
    "rules": {"coupled": {"greedy": [0.5, 2.0], "sampled": [1.0, 4.0]}},
}


def write(directory: Path, values: Any) -> Path:
    (directory / "calibration.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return directory


def test_survival_is_the_product_of_scaled_sigmoids_by_class(tmp_path: Path) -> None:
    calibration = Calibration.find(write(tmp_path, GOOD), 2)
    assert calibration is not None
    logits = np.array([[1.0, -2.0], [1.0, -2.0], [-np.inf, 3.0]], dtype=np.float32)
    found = calibration.survival(logits, np.array([0.0, 0.7, 0.0], dtype=np.float32))

    def sigmoid(z: float) -> float:
        return 1 / (1 + float(np.exp(-z)))

    np.testing.assert_allclose(found[0], [sigmoid(2), sigmoid(2) * sigmoid(-1)])
    np.testing.assert_allclose(found[1], [sigmoid(1), sigmoid(1) * sigmoid(-0.5)])
    assert found[2].tolist() == [0.0, 0.0]
    assert calibration.survival(logits, np.zeros(3), rule="rejection") == pytest.approx(prefix_survival(logits))
    assert Calibration.parse(calibration.to_json(), tmp_path / "x", 2).to_json() == calibration.to_json()


def test_no_file_is_no_calibration_and_other_blocks_are_left_alone(tmp_path: Path) -> None:
    assert Calibration.find(tmp_path, 7) is None
    calibration = Calibration.find(write(tmp_path, GOOD), 2)
    assert calibration is not None
    logits = np.zeros((1, 3))
    assert calibration.survival(logits, np.zeros(1)).tolist() == [[0.5, 0.25, 0.125]]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ("{", "JSON"),
        ([], "JSON object"),
        (GOOD | {"format_version": 2}, "format_version"),
        (GOOD | {"block_size": 7}, "block_size is 7, the drafter's is 2"),
        (GOOD | {"rules": None}, "rules"),
        (GOOD | {"rules": {"luck": {}}}, "rules.luck"),
        (GOOD | {"rules": {"coupled": {"tepid": [1, 1]}}}, "rules.coupled.tepid"),
        (GOOD | {"rules": {"coupled": {"greedy": [1.0]}}}, "2 finite temperatures"),
        (GOOD | {"rules": {"coupled": {"greedy": [1.0, 0.0]}}}, "2 finite temperatures"),
        (GOOD | {"rules": {"coupled": {"greedy": [1.0, "2"]}}}, "2 finite temperatures"),
        (json.dumps(GOOD).replace("2.0]", "NaN]"), "2 finite temperatures"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, values: Any, named: str) -> None:
    with pytest.raises(DrafterMismatch, match=named):
        Calibration.find(write(tmp_path, values), 2)


def test_the_engine_schedules_by_calibrated_confidence(tmp_path: Path) -> None:
    target = make_target(tmp_path / "target")
    drafter = make_drafter(tmp_path / "drafter", target, gamma=4, confidence_bias=-2.0)
    wanted = [request(i, p, 16) for i, p in enumerate(prompts(2, 90, (5, 9)))]

    def verified() -> tuple[int, list[list[int]]]:
        chunks = run(make_engine(target, drafter), wanted)
        summaries = [chunks[r.request_id][-1].summary for r in wanted]
        tokens = [[t for c in chunks[r.request_id] for t in c.tokens] for r in wanted]
        return sum(s.admitted_tokens for s in summaries if s is not None), tokens

    plain, answers = verified()
    slots = [0.05] * 4  # small chances become next to none, and what is never accepted is not verified
    values = {"format_version": 1, "block_size": 4, "rules": {"coupled": {"greedy": slots}}}
    write(drafter, values)
    kept, same = verified()
    assert same == answers
    assert plain > 40
    assert kept < plain / 2
    write(drafter, values | {"block_size": 5})
    with pytest.raises(DrafterMismatch, match="block_size"):
        make_engine(target, drafter)
