"""`outrider draft regenerate`: answers that are the engine's own, resumed record by record."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from outrider.errors import ArtifactBroken, ArtifactMismatch, ArtifactMissing, NotEnoughDisk
from outrider.local import open_engine
from outrider.training import answers as shards
from outrider.training.answers import read_answers
from outrider.training.prepare import prepare
from outrider.training.recipe import Recipe, load_recipe
from outrider.training.regenerate import answer_seed, regenerate
from outrider.types import GenerationRequest, SamplingParams
from support.tiny import make_drafter
from support.workshop import make_workshop, write_recipe


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr(shards, "SHARD_ANSWERS", 10)
    monkeypatch.setattr(shards, "_SYNC_EVERY", 3)
    loaded = load_recipe(make_workshop(tmp_path))
    prepare(loaded)
    return loaded


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


def test_each_answer_is_what_the_engine_says_to_that_prompt_alone(recipe: Recipe) -> None:
    manifest = regenerate(recipe)
    answers = read_answers(recipe.output / "answers", "train")
    assert len(answers) == manifest.figures["train"]["answers"] > 20
    assert [a.temperature for a in answers[:6]] == [1.0, 1.0, 1.0, 0.7, 0.0, 1.0]
    assert [a.seed for a in answers] == [answer_seed(recipe.seed, a.id) for a in answers]
    with open_engine(recipe.target, curve=None) as local:
        for answer in answers[:8]:
            sampling = SamplingParams(12, temperature=answer.temperature, seed=answer.seed)
            (alone,) = local.generate([GenerationRequest("x", tuple(answer.prompt_tokens), sampling)])
            assert alone.tokens == answer.response_tokens
            assert alone.finish == answer.finish


def test_records_have_the_fields_that_were_promised(recipe: Recipe) -> None:
    regenerate(recipe)
    for name in ("train-00000.jsonl", "heldout-00000.jsonl"):
        record = json.loads((recipe.output / "answers" / name).read_text().splitlines()[0])
        assert list(record) == [
            "id", "source", "domain", "license", "prompt_tokens", "response_tokens", "temperature", "seed", "finish",
        ]  # fmt: skip


def test_a_drafter_changes_nothing_but_the_work(recipe: Recipe, tmp_path: Path) -> None:
    drafter = make_drafter(tmp_path / "drafter", recipe.target, max_position_embeddings=256)
    regenerate(recipe)
    plain = contents(recipe.output / "answers")
    path = write_recipe(tmp_path, answers={"max_new_tokens": 12, "concurrency": 4, "drafter": str(drafter)})
    regenerate(load_recipe(path), restart=True)
    assert contents(recipe.output / "answers") == plain


@pytest.mark.parametrize("torn", [0, 1, 40])
def test_a_torn_run_is_resumed_to_the_same_files(recipe: Recipe, torn: int) -> None:
    folder = recipe.output / "answers"
    regenerate(recipe)
    whole = contents(folder)
    record = json.loads((folder / "manifest.json").read_text())
    begun = {name: record[name] for name in ("kind", "format_version", "inputs", "settings")}
    (folder / "manifest.json").unlink()
    (folder / "begun.json").write_text(json.dumps(begun))
    for path in folder.glob("heldout-*"):
        path.unlink()
    last = folder / "train-00001.jsonl"
    last.write_bytes(whole[last.name][: len(whole[last.name]) - 300 - torn])
    (folder / "train-00002.jsonl").unlink()
    if torn == 1:
        last.unlink()
    regenerate(recipe)
    assert contents(folder) == whole


def test_a_full_disk_keeps_what_was_answered(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "os", SimpleNamespace(fsync=full, truncate=os.truncate))
        with pytest.raises(NotEnoughDisk, match=r"what was answered is kept.*`outrider draft regenerate` goes on"):
            regenerate(recipe)
    kept = contents(recipe.output / "answers")
    assert len(read_answers(recipe.output / "answers", "train")) >= 6
    regenerate(recipe)
    assert all(contents(recipe.output / "answers")[name].startswith(text) for name, text in kept.items())


def test_without_prompts_the_command_to_run_first_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="run `outrider draft prepare` first"):
        regenerate(load_recipe(make_workshop(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": {"temperatures": [0.5]}}, r"setting temperatures was \[1.0, 1.0"),
        ({"seed": 8}, "prompts|setting seed"),
    ],
)
def test_other_settings_are_refused(recipe: Recipe, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    regenerate(recipe)
    with pytest.raises(ArtifactMismatch, match=message):
        regenerate(load_recipe(write_recipe(tmp_path, **changes)))


def test_concurrency_is_not_a_setting_of_the_answers(recipe: Recipe, tmp_path: Path) -> None:
    first = regenerate(recipe)
    assert regenerate(load_recipe(write_recipe(tmp_path, answers={"concurrency": 7}))) == first


@pytest.mark.parametrize("line", ["{}", "[]", '{"id": 1', "x"])
def test_a_damaged_shard_is_named(recipe: Recipe, line: str) -> None:
    regenerate(recipe)
    shard = recipe.output / "answers/train-00000.jsonl"
    lines = shard.read_text().splitlines()
    shard.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(ArtifactBroken, match=r"train-00000\.jsonl: line 2 is no answer"):
        read_answers(recipe.output / "answers", "train")
