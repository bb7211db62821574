"""What does not belong together, or is damaged: every stage says what and how to go on, and touches nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.errors import (
    ArtifactBroken,
    ArtifactMismatch,
    ConfigurationError,
    DataError,
    DrafterMismatch,
    ModelDirectoryError,
    NotEnoughDisk,
    OutputNotWritable,
)
from outrider.text import TextModel
from support.texts import VOCAB
from support.tiny import make_target
from support.workshop import OUTPUT, call, contents, edit, made


def other_target(folder: Path) -> None:
    make_target(folder / "target", vocab=VOCAB + 4, hidden=32, eos=1, layers=3, seed=9)


def other_tokenizer(folder: Path) -> None:
    path = folder / "target/tokenizer.json"
    path.write_text(path.read_text("utf-8") + "\n", encoding="utf-8")


def other_layers(folder: Path) -> None:
    edit(folder, drafter={"target_layer_ids": [0, 1]})


def short_shard(folder: Path) -> None:
    os.truncate(folder / OUTPUT / "features/shard-00000.safetensors", 1000)


def short_answers(folder: Path) -> None:
    os.truncate(folder / OUTPUT / "answers/train-00000.jsonl", 500)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (other_target, ArtifactMismatch, "answers .*input target changed.*regenerate --restart"),
        (other_tokenizer, ArtifactMismatch, "answers .*input tokenizer changed.*regenerate --restart"),
        (
            other_layers,
            ArtifactMismatch,
            r"features .*target_layer_ids was \[-1, 0, 1\], now \[0, 1\].*cache --restart",
        ),
        (short_shard, ArtifactBroken, "shard-00000.safetensors is truncated: 1000 bytes.*`outrider draft cache`"),
        (short_answers, ArtifactBroken, "train-00000.jsonl is truncated: 500 bytes.*regenerate --restart"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--restart",)])
def test_training_on_what_is_not_this_targets_is_refused_and_keeps_the_drafter(
    copied: Path, spoil: Callable[[Path], None], error: type[Exception], said: str, options: tuple[str, ...]
) -> None:
    spoil(copied)
    before = contents(copied)
    with pytest.raises(error, match=said):
        call(copied, "train", *options)
    assert contents(copied) == before


def test_no_stage_goes_on_from_another_drafter_or_target(copied: Path) -> None:
    call(copied, "train", "--restart", "--set", "training.steps=2")
    assert made(copied, "drafter").hash != made(copied, "evaluation").inputs["drafter"]
    for stage in ("calibrate", "export"):
        with pytest.raises(ArtifactMismatch, match=r"evaluation was made .*input drafter changed.*eval --restart"):
            call(copied, stage, "--restart")
    other_target(copied)
    with pytest.raises(ArtifactMismatch, match=r"answers was made .*input target changed.*regenerate --restart"):
        call(copied, "cache", "--restart")
    for stage, made_from in (
        ("eval", "drafter"),
        ("calibrate", "drafter"),
        ("export", "drafter"),
        ("report", "evaluation"),
    ):
        with pytest.raises(ArtifactMismatch, match=rf"{made_from} was made .*input target changed.*--restart"):
            call(copied, stage)


def foreign(folder: Path, **shape: Any) -> Path:
    """The exported drafter of another target: `shape` changes its config, else only its manifest says so."""
    path = shutil.copytree(folder / OUTPUT / "export", folder / "foreign")
    config = path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | shape))
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    if not shape:
        manifest["inputs"]["target"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize(
    ("field", "place", "said"),
    [
        ("compare", lambda folder: [str(folder / "none")], r"evaluation\.compare: .*none has no config\.json"),
        ("compare", lambda folder: [str(foreign(folder))], "foreign: its manifest.json says .*another target"),
        (
            "compare",
            lambda folder: [str(foreign(folder, num_target_layers=4))],
            "num_target_layers is 4, the target .* 3",
        ),
        ("compare", lambda folder: [str(folder / "target")], "num_target_layers: Field required"),
        ("plain_model", lambda folder: str(folder / "none"), r"evaluation\.plain_model: .*none has no config\.json"),
        ("plain_model", lambda folder: str(make_target(folder / "small", layers=2)), "97 token ids, the target 292"),
    ],
)
def test_eval_refuses_a_strange_contender_before_it_touches_anything(
    copied: Path, field: str, place: Callable[[Path], Any], said: str
) -> None:
    edit(copied, evaluation={field: place(copied)})
    before = contents(copied)
    with pytest.raises((ConfigurationError, DrafterMismatch), match=said):
        call(copied, "eval", "--restart")
    assert contents(copied) == before


def test_eval_says_why_there_is_no_prompt_and_keeps_the_last_evaluation(copied: Path, tmp_path: Path) -> None:
    before = made(copied, "evaluation")
    with pytest.raises(DataError, match=r"leaves room for evaluation\.max_new_tokens \(250\).*context of 256 tokens"):
        call(copied, "eval", "--restart", "--set", "evaluation.max_new_tokens=250")
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "word " * 300}) + "\n")
    with pytest.raises(DataError, match=r"long\.jsonl: none of 1 prompts leaves room"):
        call(copied, "eval", "--label", "long", "--prompts", str(tmp_path / "long.jsonl"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl: no prompts to evaluate on"):
        call(copied, "eval", "--label", "empty", "--prompts", str(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match=r"none\.jsonl: no such file; check --prompts"):
        call(copied, "eval", "--label", "none", "--prompts", str(tmp_path / "none.jsonl"))
    assert made(copied, "evaluation") == before


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "-x", ""])
def test_a_name_is_part_of_one_folder(copied: Path, name: str) -> None:
    if not name:
        assert "up to date" in call(copied, "train", "--name", name)
        return
    with pytest.raises(ConfigurationError, match="becomes part of a folder's name"):
        call(copied, "train", f"--name={name}")


@pytest.mark.parametrize(("device", "said"), [("tpu", "known: auto, cpu, cuda"), ("cuda:x", "known: auto, cpu, cuda")])
def test_an_unknown_device_is_refused(copied: Path, device: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        call(copied, "train", "--name", "other", "--device", device)
    assert not (copied / OUTPUT / "drafter-other").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_training_is_said_and_the_same_command_goes_on(copied: Path) -> None:
    folder = copied / OUTPUT / "drafter-more"
    folder.mkdir()
    (folder / ".checkpoint.partial").symlink_to("/dev/full")
    with pytest.raises(NotEnoughDisk, match=f"{OUTPUT}: the disk is full; what is finished is kept"):
        call(copied, "train", "--name", "more")
    call(copied, "train", "--name", "more")
    first, second = (load_file(copied / OUTPUT / name / "model.safetensors") for name in ("drafter", "drafter-more"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("output", ["target/config.json", "target/config.json/run", "/proc/none"])
@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_an_output_that_cannot_be_written_is_named(copied: Path, output: str, stage: str) -> None:
    path = copied / "mine.yaml"
    path.write_text(path.read_text("utf-8").replace(f"output: {OUTPUT}", f"output: {output}"))
    with pytest.raises(OutputNotWritable, match=rf"{output}.*; make the recipe's `output` a folder"):
        call(copied, stage)


def damage(folder: Path, name: str, row: int) -> None:
    weights = folder / "target/model.safetensors"
    tensors = load_file(weights)
    tensors[name][row, 0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})


def test_a_damaged_target_is_not_asked(copied: Path) -> None:
    damage(copied, "model.layers.1.mlp.down_proj.weight", 0)
    with pytest.raises(ModelDirectoryError, match="target: its weights give logits that are not finite"):
        call(copied, "regenerate", "--restart")


def test_nan_in_the_targets_states_is_found_before_it_is_learnt_from(copied: Path) -> None:
    """Damage that a look at a few tokens does not show: one token's embedding."""
    mark = TextModel.load(copied / "target").encode("?")[-1]
    damage(copied, "model.embed_tokens.weight", mark)
    call(copied, "regenerate", "--restart")
    with pytest.raises(ModelDirectoryError, match=r"target: the states over an answer .* are not finite numbers"):
        call(copied, "cache", "--restart")
    edit(copied, cache={"mode": "on-the-fly"})
    call(copied, "cache", "--restart")
    with pytest.raises(ModelDirectoryError, match=r"target: the states over an answer .* are not finite numbers"):
        call(copied, "train", "--restart")
