"""Stages in processes of their own: killed and interrupted runs end with the files of an undisturbed one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from outrider.errors import ArtifactMissing
from outrider.training.cache import cache
from outrider.training.drafter_eval import eval_stage
from outrider.training.prepare import prepare
from outrider.training.recipe import load_recipe
from outrider.training.regenerate import regenerate
from outrider.training.storage import load_checkpoint
from outrider.training.train_stage import CHECKPOINT, train_stage
from support.workshop import make_workshop

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
TIMEOUT_S = 120


def command(stage: str, recipe: Path) -> list[str]:
    return [sys.executable, "-m", "outrider", "draft", stage, "--recipe", str(recipe)]


def answers(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "run/answers").glob("*.jsonl"))}


def stopped_midway(recipe: Path, how: signal.Signals, after_lines: int) -> tuple[int, str]:
    """Run `regenerate` until it has written so many answers, then send the signal; exit code and stderr."""
    shard = recipe.parent / "run/answers/train-00000.jsonl"
    process = subprocess.Popen(command("regenerate", recipe), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not shard.exists() or shard.read_bytes().count(b"\n") < after_lines:
            assert process.poll() is None, "it ended before it was stopped"
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        process.send_signal(how)
        _, said = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return process.returncode, said


def test_killed_and_interrupted_runs_resume_to_the_same_answers(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    path = make_workshop(broken, answers={"max_new_tokens": 60, "concurrency": 3})
    prepare(load_recipe(path))
    whole = shutil.copytree(broken, tmp_path / "whole")
    recipe, undisturbed = load_recipe(path), load_recipe(whole / "recipe.yaml")
    expected = regenerate(undisturbed)

    code, _ = stopped_midway(path, signal.SIGKILL, after_lines=4)
    assert code == -signal.SIGKILL
    assert not (broken / "run/answers/manifest.json").exists()
    with pytest.raises(ArtifactMissing, match="is not finished; run `outrider draft regenerate` first"):
        cache(recipe)
    shard = broken / "run/answers/train-00000.jsonl"
    done = shard.read_bytes().count(b"\n")
    with shard.open("ab") as stream:
        stream.write(b'{"id": "torn by the kill')

    code, said = stopped_midway(path, signal.SIGINT, after_lines=done + 4)
    assert code == 130
    assert "resume with the same command" in said

    resumed = regenerate(recipe)
    assert answers(broken) == answers(whole)
    assert resumed.hash == expected.hash
    assert regenerate(recipe) == resumed
    assert cache(recipe).hash == cache(undisturbed).hash


def training_stopped(recipe: Path, how: signal.Signals, after_steps: int) -> tuple[int, str]:
    """Run `train` until it has gone so many steps beyond its last checkpoint's, then send the signal; as above."""
    checkpoint = recipe.parent / "run/drafter" / CHECKPOINT
    wanted = saved_step(checkpoint) + after_steps
    process = subprocess.Popen(command("train", recipe), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while saved_step(checkpoint) < wanted:
            assert process.poll() is None, "it ended before it was stopped"
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        process.send_signal(how)
        _, said = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return process.returncode, said


def saved_step(checkpoint: Path) -> int:
    state = load_checkpoint(checkpoint)
    return 0 if state is None else int(state["step"])


def test_training_killed_and_interrupted_gives_the_weights_of_a_whole_run(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    training = {"steps": 150, "anchors_per_step": 32, "anchors_per_conversation": 4, "checkpoint_s": 0.1}
    path = make_workshop(broken, drafter={"block_size": 3}, training=training)
    recipe = load_recipe(path)
    for stage in (prepare, regenerate, cache):
        stage(recipe)
    whole = shutil.copytree(broken, tmp_path / "whole")
    undisturbed = train_stage(load_recipe(whole / "recipe.yaml"))

    code, _ = training_stopped(path, signal.SIGKILL, after_steps=5)
    assert code == -signal.SIGKILL
    drafter = broken / "run/drafter"
    killed_at = saved_step(drafter / CHECKPOINT)
    assert 5 <= killed_at < 150
    assert not (drafter / "manifest.json").exists()
    with pytest.raises(ArtifactMissing, match="is not finished; run `outrider draft train` first"):
        eval_stage(recipe)

    code, said = training_stopped(path, signal.SIGINT, after_steps=5)
    assert code == 130
    assert "stopped; what is finished is kept: resume with the same command" in said
    assert "Traceback" not in said
    assert killed_at < saved_step(drafter / CHECKPOINT) < 150

    assert train_stage(recipe).hash == undisturbed.hash
    assert not (drafter / CHECKPOINT).exists()
    expected, found = (load_file(folder / "run/drafter/model.safetensors") for folder in (whole, broken))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (drafter / "losses.jsonl").read_bytes() == (whole / "run/drafter/losses.jsonl").read_bytes()
