"""The data stages through the command line: killed and interrupted runs end with the files of an undisturbed one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outrider.errors import ArtifactMissing
from outrider.training.cache import cache
from outrider.training.prepare import prepare
from outrider.training.recipe import load_recipe
from outrider.training.regenerate import regenerate
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
