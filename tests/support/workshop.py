"""A tiny target with its tokenizer, prompts to ask it and a recipe: what the stages of `outrider draft` start from; and
the stages run as a person runs them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from outrider.cli.draft import app
from outrider.training.artifacts import COMMANDS, Artifact, Manifest
from support.texts import VOCAB, save_tokenizer
from support.tiny import make_target

__all__ = [
    "OUTPUT",
    "call",
    "contents",
    "edit",
    "finished_workshop",
    "made",
    "make_prompts",
    "make_workshop",
    "write_recipe",
]

OUTPUT = "drafts/target"
"""Where `draft init` has a finished workshop's artifacts go."""

_RUN = CliRunner()
_EDITS: dict[str, dict[str, Any]] = {
    "prompts": {"heldout_percent": 20},
    "answers": {"max_new_tokens": 12, "concurrency": 8},
    "drafter": {"layers": 1, "block_size": 3, "markov_rank": 8},
    "training": {"steps": 8, "anchors_per_step": 16, "anchors_per_conversation": 4},
    "evaluation": {"limit_per_domain": 6, "max_new_tokens": 20},
    "calibration": {"bins": 4, "grid": [0.5, 2.0, 6]},
}

_WORDS = ("river", "stone", "seven", "blue", "engine", "letter", "garden", "cloud", "iron", "paper", "north", "bread")


def make_prompts(count: int) -> list[dict[str, Any]]:
    """Distinct short questions of two domains, each its own source."""
    records = []
    for number in range(count):
        words = " ".join(_WORDS[(number * step + step) % len(_WORDS)] for step in (1, 5, 7))
        about = {"id": f"p{number}", "source": f"s{number}", "domain": ("maths", "prose")[number % 2]}
        records.append({**about, "messages": [{"role": "user", "content": f"question {number}: {words}?"}]})
    return records


def make_workshop(folder: Path, prompts: int = 40, **changes: Any) -> Path:
    """Target, prompt file and recipe in `folder`; `changes` update the recipe's sections. Returns the recipe."""
    make_target(folder / "target", vocab=VOCAB + 4, hidden=32, eos=1, layers=3)
    save_tokenizer(folder / "target")
    lines = (json.dumps(record) for record in make_prompts(prompts))
    (folder / "prompts.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return write_recipe(folder, **changes)


def write_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe beside the target; a section in `changes` updates the default one, anything else replaces it."""
    recipe: dict[str, Any] = {
        "target": "target",
        "output": "run",
        "prompts": {"files": ["prompts.jsonl"], "heldout_percent": 20},
        "answers": {"max_new_tokens": 12, "concurrency": 4},
        "drafter": {"layers": 1, "target_layer_ids": [-1, 0, 1], "markov_rank": 8},
    }
    for name, value in changes.items():
        recipe[name] = {**recipe.get(name, {}), **value} if isinstance(value, dict) else value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def edit(folder: Path, **sections: dict[str, Any]) -> None:
    """Change values of the recipe as its owner would."""
    path = folder / "mine.yaml"
    recipe = yaml.safe_load(path.read_text("utf-8"))
    for name, values in sections.items():
        recipe[name] |= values
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")


def call(folder: Path, stage: str, *options: str) -> str:
    """Everything the command says; errors are raised as they are."""
    done = _RUN.invoke(app, [stage, "--recipe", str(folder / "mine.yaml"), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def made(folder: Path, kind: str, name: str = "") -> Manifest:
    return Artifact(folder / OUTPUT, kind, name).require()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of every artifact, to see that a refusal touches nothing; identities.json only spares hashing."""
    files = (path for path in (folder / OUTPUT).rglob("*") if path.is_file() and path.name != "identities.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def finished_workshop(folder: Path) -> Path:
    """A folder in which all stages have run, from `draft init` on; the current folder has to be `folder`."""
    make_workshop(folder, prompts=60)
    begun = ["init", "--target", "target", "--prompts", "prompts.jsonl", "--recipe", "mine.yaml"]
    assert _RUN.invoke(app, begun, catch_exceptions=False).exit_code == 0
    edit(folder, **_EDITS)
    for kind, stage in COMMANDS.items():
        said = call(folder, stage)
        assert f"{kind}: {folder / OUTPUT / kind} ({made(folder, kind).hash[:12]})" in said
    return folder
