"""Artifacts: up to date, resumed, refused, started over, damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrider.errors import ArtifactBroken, ArtifactMismatch, ArtifactMissing, ModelDirectoryError
from outrider.training.artifacts import Artifact
from outrider.training.subject import model_identity
from support.tiny import make_target

INPUTS = {"prompts": "1" * 64, "target": "2" * 64}
SETTINGS = {"limit": None, "temperatures": [1.0, 0.0]}


def made(output: Path, text: str = "hello") -> Artifact:
    artifact = Artifact(output, "answers")
    assert artifact.begin(INPUTS, SETTINGS)
    (artifact.directory / "a.jsonl").write_text(text)
    artifact.finish({"seconds": 1.5})
    return artifact


def test_a_finished_artifact_is_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = made(tmp_path)
    assert artifact.begin(INPUTS, SETTINGS) is False
    assert capsys.readouterr().err == "answers: up to date\n"
    manifest = json.loads((tmp_path / "answers/manifest.json").read_text())
    assert set(manifest) == {"kind", "format_version", "outrider_version", "inputs", "settings", "files", "figures"}
    assert manifest["files"]["a.jsonl"]["bytes"] == 5


def test_the_hash_is_of_content_not_of_how_long_it_took(tmp_path: Path) -> None:
    one, two, other = made(tmp_path / "1"), made(tmp_path / "2"), made(tmp_path / "3", "hullo")
    assert one.require().hash == two.require().hash != other.require().hash


def test_an_interrupted_one_is_resumed_with_its_files(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "answers")
    artifact.begin(INPUTS, SETTINGS)
    (artifact.directory / "a.jsonl").write_text("half")
    with pytest.raises(ArtifactMissing, match="is not finished; run `outrider draft regenerate` first"):
        artifact.require()
    assert artifact.begin(INPUTS, SETTINGS) is True
    assert (artifact.directory / "a.jsonl").read_text() == "half"


@pytest.mark.parametrize("finished", [True, False])
def test_other_inputs_and_settings_are_refused_by_name(tmp_path: Path, finished: bool) -> None:
    artifact = Artifact(tmp_path, "answers")
    if finished:
        made(tmp_path)
    else:
        artifact.begin(INPUTS, SETTINGS)
    with pytest.raises(ArtifactMismatch) as refusal:
        artifact.begin({**INPUTS, "target": "3" * 64}, {**SETTINGS, "temperatures": [0.5]})
    for part in ("input target changed", "setting temperatures was [1.0, 0.0], now [0.5]", "regenerate --restart"):
        assert part in refusal.value.message
    assert "prompts" not in refusal.value.message
    with pytest.raises(ArtifactMismatch, match="setting seed is new"):
        artifact.begin(INPUTS, {**SETTINGS, "seed": 1})


def test_restart_keeps_the_old_one(tmp_path: Path) -> None:
    artifact = made(tmp_path)
    assert artifact.begin(INPUTS, {"seed": 1}, restart=True)
    assert list(artifact.directory.iterdir()) == [artifact.directory / "begun.json"]
    assert (tmp_path / "answers.old/a.jsonl").read_text() == "hello"
    assert (tmp_path / "answers.old/manifest.json").exists()


def test_a_restart_that_came_to_nothing_does_not_cost_the_old_one(tmp_path: Path) -> None:
    artifact = made(tmp_path)
    for seed in range(3):
        assert artifact.begin(INPUTS, {"seed": seed}, restart=True)
    assert (tmp_path / "answers.old/a.jsonl").read_text() == "hello"


def test_what_was_made_from_something_else_is_refused_by_that_input_alone(tmp_path: Path) -> None:
    artifact = made(tmp_path)
    assert artifact.require_from({"target": "2" * 64}) == artifact.require()
    with pytest.raises(ArtifactMismatch, match=r"input target changed \(2{12} → 3{12}\)\. `outrider draft regenerate"):
        artifact.require_from({"target": "3" * 64})
    with pytest.raises(ArtifactMismatch, match="input drafter is new"):
        artifact.require_from({"drafter": "3" * 64})


def test_changes_inside_a_section_are_named_one_by_one(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "drafter", "b")
    artifact.begin(INPUTS, {"training": {"steps": 4, "loss": {"ce": 0.1, "tv": 0.9}}})
    with pytest.raises(ArtifactMismatch) as refusal:
        artifact.begin(INPUTS, {"training": {"steps": 4, "loss": {"ce": 1.0, "tv": 0.9}}})
    assert "now: setting training.loss.ce was 0.1, now 1.0. `outrider draft train --name b" in refusal.value.message


def test_an_evaluation_of_other_prompts_says_how_it_was_made(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "evaluation", "b", "mine")
    assert artifact.directory == tmp_path / "evaluation-b-mine"
    with pytest.raises(ArtifactMissing, match="`outrider draft eval --name b --prompts FILE --label mine` first"):
        artifact.require()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "a.jsonl is missing"),
        (lambda path: path.write_text("hell"), "a.jsonl is truncated: 4 bytes instead of 5"),
        (lambda path: path.write_text("hello!"), "longer than it was written"),
    ],
)
def test_damage_is_named_with_its_cure(tmp_path: Path, damage: object, message: str) -> None:
    artifact = made(tmp_path)
    damage(artifact.directory / "a.jsonl")  # type: ignore[operator]
    for use in (artifact.require, lambda: artifact.begin(INPUTS, SETTINGS)):
        with pytest.raises(ArtifactBroken, match=message) as refusal:
            use()
        assert "`outrider draft regenerate --restart` rebuilds it" in refusal.value.message


def test_a_flipped_bit_shows_in_the_content_check(tmp_path: Path) -> None:
    artifact = made(tmp_path)
    artifact.check_content("a.jsonl")
    (artifact.directory / "a.jsonl").write_text("hellp")
    with pytest.raises(ArtifactBroken, match="other bytes"):
        artifact.check_content("a.jsonl")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kind": "answers", "files": 3}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    artifact = made(tmp_path)
    (artifact.directory / "manifest.json").write_text(text)
    with pytest.raises(ArtifactBroken):
        artifact.require()


def test_a_models_identity_is_its_bytes(tmp_path: Path) -> None:
    one, same, other = (make_target(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    cache = tmp_path / "identities.json"
    first = model_identity(one, cache)
    assert first == model_identity(one, cache) == model_identity(same, cache) == model_identity(one)
    assert first != model_identity(other, cache)
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert model_identity(one, cache) != first
    with pytest.raises(ModelDirectoryError):
        model_identity(tmp_path)
