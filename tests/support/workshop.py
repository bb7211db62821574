"""A tiny target with its tokenizer, prompts to ask it and a recipe: what the stages of `outrider draft` start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from support.texts import VOCAB, save_tokenizer
from support.tiny import make_target

__all__ = ["make_prompts", "make_workshop", "write_recipe"]

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
