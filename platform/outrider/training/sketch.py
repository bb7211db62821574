"""`outrider draft init`: a first recipe for a target, with every value that usually matters and a word on each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from outrider.errors import ConfigurationError, ModelDirectoryError
from outrider.text import TextModel

__all__ = ["sketch_recipe", "tapped_layers"]

_MASK_NAMES = ("<|mask|>", "<mask>", "[MASK]", "<|MASK|>")
_SMALL_TARGET = 512
_COMMENT_COLUMN = 36


def tapped_layers(layers: int) -> list[int]:
    """Layers to tap of a target with `layers` of them, spread from near the input to short of the output.

    Five for 30 layers and more, three for smaller ones (all but the last of a very small one): 36 give
    [1, 9, 17, 25, 33] and 40 [1, 10, 19, 28, 37], as the released drafters have them (deepseek-ai/dspark_*_block7).
    """
    if layers <= 3:
        return list(range(-1, layers - 1))
    count, first = (5, 1) if layers >= 30 else (3, 0)
    last = layers - 3 if layers >= 30 else layers - 2
    return [first + round(place * (last - first) / (count - 1)) for place in range(count)]


def sketch_recipe(target: Path, prompts: Path, output: Path, recipe: Path) -> str:
    """YAML text of a recipe to be written at `recipe`. Raises ModelDirectoryError, ConfigurationError."""
    text = TextModel.load(target)
    config: dict[str, Any] = json.loads((target / "config.json").read_text("utf-8"))
    layers, hidden = config.get("num_hidden_layers"), config.get("hidden_size")
    if not isinstance(layers, int) or not isinstance(hidden, int) or layers < 1:
        raise ModelDirectoryError(f"{target}/config.json names no num_hidden_layers and hidden_size")
    if not prompts.is_file():
        raise ConfigurationError(f"{prompts}: no such file; --prompts is a JSONL or Parquet file of prompts")
    small = hidden <= _SMALL_TARGET
    mask = next((name for name in _MASK_NAMES if text.token_id(name) is not None), None)
    if mask is None and text.used_tokens >= text.vocab_size:
        raise ConfigurationError(
            f"{target}: every id of the vocabulary is in use, and none of {', '.join(_MASK_NAMES)} is a token; write "
            "the recipe by hand with a token the target never says as drafter.mask_token"
        )
    base = recipe.absolute().parent
    filled = _TEMPLATE.format(
        target=_place(target, base),
        prompts=_place(prompts, base),
        output=_place(output, base),
        max_prompt_tokens=min(1024, text.context_tokens // 2),
        max_new_tokens=min(256 if small else 1024, text.context_tokens // 2),
        concurrency=64,
        drafter_layers=2 if small else 5,
        layer_ids=json.dumps(tapped_layers(layers)),
        markov_rank=max(8, min(256, hidden // 2)),
        mask=json.dumps(mask, ensure_ascii=False),
        mask_word="stands for what is to be drafted" if mask else "null: the first id that no token uses",
        optimizer="muon" if small else "adamw",
        learning_rate=0.004 if small else 0.0006,
        head_learning_rate=0.003 if small else 0.0006,
        command=recipe.name,
    )
    return _aligned(filled)


def _aligned(text: str) -> str:
    """Comments behind values in one column."""
    lines = []
    for line in text.splitlines():
        value, mark, comment = line.partition("  # ")
        lines.append(f"{value.rstrip():<{_COMMENT_COLUMN}}# {comment}" if mark else line)
    return "".join(f"{line}\n" for line in lines)


def _place(path: Path, base: Path) -> str:
    """A path relative to `base` where it is near, quoted for YAML."""
    relative = os.path.relpath(path.absolute(), base)
    near = relative.count("..") <= 2
    return json.dumps(relative if near else str(path.absolute()), ensure_ascii=False)


_TEMPLATE = """\
# A drafter for one target: every stage reads this file, goes on where it stopped, and skips what is done.
#   outrider draft prepare|regenerate|cache|train|eval|calibrate|export --recipe {command}
# Paths are relative to this file. Every section but target, output, prompts and drafter may be left out.
target: {target}
output: {output}          # one folder per stage appears below
seed: 7

prompts:                          # JSONL or Parquet: `messages` or `prompt`; optional id, source, domain, license
  files: [{prompts}]
  heldout_percent: 4              # of the source documents; never trained on
  dedupe_ngram: 13                # words; a prompt that shares dedupe_overlap of its n-grams with another is dropped
  dedupe_overlap: 0.8
  max_prompt_tokens: {max_prompt_tokens}
  limit: null                     # or how many prompts to take

answers:                          # the target answers its own training data
  max_new_tokens: {max_new_tokens}
  temperatures: [1.0, 1.0, 1.0, 0.7, 0.0]
  concurrency: {concurrency}                 # requests in flight; more is faster until memory or cores are full
  limit: null

cache:
  mode: disk                      # on-the-fly needs no disk and runs the target again in every epoch
  shard_bytes: 268435456

drafter:
  kind: dspark                    # or dflash: no sequential head, no confidence head
  layers: {drafter_layers}
  block_size: 7                   # tokens drafted per round
  target_layer_ids: {layer_ids}   # layers of the target that the drafter sees; -1 is the embedding
  markov_head: vanilla            # gated or rnn
  markov_rank: {markov_rank}
  mask_token: {mask}          # {mask_word}
  confidence: true

training:
  steps: 2000
  anchors_per_conversation: 32
  anchors_per_step: 256
  optimizer: {optimizer}
  learning_rate: {learning_rate}
  head_learning_rate: {head_learning_rate}
  loss: {{ce: 0.1, tv: 0.9, confidence: 1.0, decay: 4.0}}
  label: coupled                  # what confidence learns; rejection where requests are verified by rejection
  precision: auto
  checkpoint_s: 60
  warm_start: true                # start from the target's last layers

evaluation:
  temperatures: [0.0, 1.0]
  limit_per_domain: 80
  max_new_tokens: 200
  baselines: [prompt-lookup]
  compare: []                     # folders of other drafters of this target

calibration:
  holdout: 0.5
  grid: [0.25, 4.0, 64]
  bins: 15
  map: true                       # monotone maps of survival after the temperatures
"""
