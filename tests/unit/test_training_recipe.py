"""Recipes: what a complete one gives, and that every mistake is named with its line, column and cure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from outrider.errors import RecipeError
from outrider.training.recipe import Recipe, load_recipe

FULL = """\
target: ../targets/pro
output: runs/pro
seed: 7
prompts:     {files: [prompts.jsonl, /data/more.parquet], heldout_percent: 4, dedupe_ngram: 13, dedupe_overlap: 0.8,
              max_prompt_tokens: 1024, limit: null}
answers:     {max_new_tokens: 256, temperatures: [1.0, 1.0, 1.0, 0.7, 0.0], limit: null, concurrency: 32}
cache:       {mode: disk, shard_bytes: 268435456}
drafter:     {kind: dspark, layers: 2, block_size: 7, target_layer_ids: [0, 2, 4], markov_head: vanilla,
              markov_rank: 128, mask_token: "<|mask|>", confidence: true}
training:    {steps: 2000, anchors_per_conversation: 32, anchors_per_step: 256, optimizer: muon, learning_rate: 0.004,
              head_learning_rate: 0.003, warmup: 0.04, loss: {ce: 0.1, tv: 0.9, confidence: 1.0, decay: 4.0},
              label: coupled, precision: auto, accumulation: 1, checkpoint_s: 60, warm_start: true}
evaluation:  {temperatures: [0.0, 1.0], limit_per_domain: 80, max_new_tokens: 200, baselines: [prompt-lookup],
              compare: [other/drafter], plain_model: null}
calibration: {holdout: 0.5, grid: [0.25, 4.0, 64], bins: 15}
"""
SMALL = """\
target: t
output: o
prompts: {files: [p.jsonl]}
drafter: {target_layer_ids: [0]}
"""


def loaded(folder: Path, text: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return load_recipe(file)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(RecipeError) as refusal:
        loaded(folder, text)
    return refusal.value.message.splitlines()


def test_a_complete_recipe_loads_with_paths_beside_it(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, FULL)
    assert recipe.target == tmp_path.parent / "targets/pro"
    assert recipe.output == tmp_path / "runs/pro"
    assert recipe.prompts.files == (tmp_path / "prompts.jsonl", Path("/data/more.parquet"))
    assert recipe.evaluation.compare == (tmp_path / "other/drafter",)
    assert recipe.drafter.target_layer_ids == (0, 2, 4)
    assert recipe.calibration.grid == (0.25, 4.0, 64)


def test_the_full_recipe_is_the_defaults_written_out(tmp_path: Path) -> None:
    full, small = loaded(tmp_path, FULL), loaded(tmp_path, SMALL)
    assert full.training == small.training
    assert full.answers == small.answers
    assert full.cache == small.cache
    assert full.calibration == small.calibration


def test_dflash_needs_no_more_than_its_name(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, SMALL.replace("{target", "{kind: dflash, target"))
    assert recipe.drafter.markov_rank == 0
    assert recipe.drafter.confidence is False


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("block_size: 7", "block_sise: 7", "8:40: drafter.block_sise", "did you mean 'block_size'"),
        ("decay: 4.0", "decey: 4.0", "", "did you mean 'decay'"),
        ("kind: dspark", "kind: dsparc", "8:21: drafter.kind", "did you mean 'dspark'? known: dflash, dspark"),
        ("layers: 2", "layers: many", "drafter.layers", "expected a whole number, got text 'many'"),
        ("layers: 2", "layers: 0", "drafter.layers", "must be at least 1"),
        ("[0, 2, 4]", "[0, 4, 2]", "drafter.target_layer_ids", "must ascend"),
        ("[0, 2, 4]", "[]", "drafter.target_layer_ids", "must not be empty"),
        ("[0, 2, 4]", "[-2, 4]", "drafter.target_layer_ids[0]", "must be at least -1"),
        ("ce: 0.1, tv: 0.9", "ce: 0, tv: 0", "training.loss", "nothing would be learnt"),
        ("kind: dspark", "kind: dflash", "drafter.markov_rank", "has no Markov head"),
        ("markov_rank: 128", "markov_rank: 0", "drafter.markov_rank", "`kind: dflash`"),
        ("[0.25, 4.0, 64]", "[4.0, 0.25, 64]", "calibration.grid", "0 < lowest < highest"),
        ("[0.25, 4.0, 64]", "[4.0, 0.25]", "calibration.grid", ""),
        ("temperatures: [0.0, 1.0]", "temperatures: [.inf]", "evaluation.temperatures[0]", ""),
        ("[prompt-lookup]", "[prompt-lokup]", "evaluation.baselines[0]", "did you mean 'prompt-lookup'"),
        ("target: ../targets/pro\n", "", "1:1: target", "this field is required"),
        ("heldout_percent: 4", "heldout_percent: 60", "prompts.heldout_percent", "must be at most 50"),
        ("checkpoint_s: 60", "checkpoint_s: '60'", "training.checkpoint_s", "expected a number, got text '60'"),
        ("warm_start: true", "warm_start: yes", "training.warm_start", "expected true or false, got text 'yes'"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, old: str, new: str, place: str, message: str) -> None:
    assert old in FULL
    found = problems(tmp_path, FULL.replace(old, new))
    assert any(re.search(r"recipe\.yaml:\d+:\d+: ", line) and place in line and message in line for line in found), (
        found
    )


def test_all_problems_come_together(tmp_path: Path) -> None:
    text = FULL.replace("block_size: 7", "block_sise: 7").replace("seed: 7", "seed: -1").replace("[0, 2, 4]", "[4, 0]")
    assert len(problems(tmp_path, text)) == 3


@pytest.mark.parametrize("text", ["", "- a\n", "target: [\n", "target: a\n---\nb: 1\n"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
