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
MAP = {"inputs": [0.2, 0.6, 0.8], "outputs": [0.4, 0.5, 0.9]}
MAPPED = GOOD | {"format_version": 2, "maps": {"coupled": {"greedy": [MAP, {"inputs": [0.0], "outputs": [0.7]}]}}}


def mapped(slots: Any) -> dict[str, Any]:
    return MAPPED | {"maps": {"coupled": {"greedy": slots}}}


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


def test_a_map_takes_survival_to_survival_slot_by_slot(tmp_path: Path) -> None:
    calibration = Calibration.find(write(tmp_path, MAPPED), 2)
    assert calibration is not None
    chances = np.array([[0.7, 0.5], [0.1, 0.9], [0.0, 0.9], [0.7, 0.0]])
    with np.errstate(divide="ignore"):
        logits = np.log(chances / (1 - chances)) * np.array([0.5, 2.0])  # what the temperatures undo
    found = calibration.survival(logits, np.zeros(4))
    # 0.7 lies halfway from (0.6, 0.5) to (0.8, 0.9); slot 2 is 0.7 everywhere, but never above slot 1; 0 stays 0
    np.testing.assert_allclose(found, [[0.7, 0.7], [0.4, 0.4], [0.0, 0.0], [0.7, 0.0]])
    both = calibration.survival(np.tile(logits[:1], (2, 1)), np.array([1.0, 0.0]))
    assert both[1] == pytest.approx(found[0])
    assert both[0] == pytest.approx(prefix_survival(logits[:1], np.array([1.0, 4.0]))[0])  # sampled has no maps
    assert calibration.to_json() == MAPPED
    assert calibration.survival(logits[:0], np.zeros(0)).shape == (0, 2)


def test_without_maps_the_older_format_is_written(tmp_path: Path) -> None:
    calibration = Calibration.find(write(tmp_path, GOOD | {"format_version": 2}), 2)
    assert calibration is not None
    assert calibration.to_json() == GOOD


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
        (GOOD | {"format_version": 3}, "format_version is 3, this version reads 1 and 2"),
        (GOOD | {"block_size": 7}, "block_size is 7, the drafter's is 2"),
        (GOOD | {"rules": None}, "rules"),
        (GOOD | {"rules": {"luck": {}}}, "rules.luck"),
        (GOOD | {"rules": {"coupled": {"tepid": [1, 1]}}}, "rules.coupled.tepid"),
        (GOOD | {"rules": {"coupled": {"greedy": [1.0]}}}, "2 finite temperatures"),
        (GOOD | {"rules": {"coupled": {"greedy": [1.0, 0.0]}}}, "2 finite temperatures"),
        (GOOD | {"rules": {"coupled": {"greedy": [1.0, "2"]}}}, "2 finite temperatures"),
        (json.dumps(GOOD).replace("2.0]", "NaN]"), "2 finite temperatures"),
        (MAPPED | {"format_version": 1}, "maps needs format_version 2"),
        (MAPPED | {"maps": []}, "maps is missing or no object"),
        (MAPPED | {"maps": {"luck": {}}}, "maps.luck"),
        (MAPPED | {"maps": {"coupled": {"tepid": [MAP, MAP]}}}, "maps.coupled.tepid"),
        (mapped([MAP]), r"maps.coupled.greedy must be 2 maps"),
        (mapped([MAP, 1]), r"maps.coupled.greedy\[1\] is no object"),
        (mapped([MAP | {"inputs": []}, MAP]), r"greedy\[0\].inputs must be a list of numbers in \[0, 1\]"),
        (mapped([MAP, MAP | {"inputs": [0.2, 0.2, 0.3]}]), r"greedy\[1\].inputs must ascend"),
        (mapped([MAP, MAP | {"outputs": [0.2, 0.1, 0.3]}]), r"greedy\[1\].outputs must not fall"),
        (mapped([MAP, MAP | {"outputs": [0.2, 0.3]}]), r"greedy\[1\].outputs must be as many as the inputs: 3, not 2"),
        (mapped([MAP, MAP | {"outputs": [0.2, 0.3, 1.1]}]), r"greedy\[1\].outputs must be a list of numbers"),
        (json.dumps(MAPPED).replace("0.9]", "NaN]"), r"greedy\[0\].outputs must be a list of numbers"),
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
