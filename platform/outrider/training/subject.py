"""The target that a recipe is about: its text side, its shape, and hashes that tell one model from another."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from outrider.drafter.config import DSparkConfig
from outrider.errors import DrafterMismatch, ModelDirectoryError, RecipeError
from outrider.text import TextModel
from outrider.training.artifacts import file_sha256
from outrider.training.recipe import DrafterSection, Recipe
from outrider.training.storage import write_json

__all__ = ["Subject", "drafter_config", "model_identity", "open_subject", "tokenizer_identity"]

_TOKENIZER_FILES = ("tokenizer.json", "chat_template.jinja")
_MODEL_FILES = ("config.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Subject:
    """A recipe's target, with its weights still on disk.

    identity and tokenizer: hashes, the inputs of every stage. layers and hidden_size are the target's own;
    mask_token_id stands for what is to be drafted.
    """

    directory: Path
    identity: str
    tokenizer: str
    text: TextModel
    layers: int
    hidden_size: int
    mask_token_id: int

    @property
    def inputs(self) -> dict[str, str]:
        """What stages that run the target are made from."""
        return {"target": self.identity, "tokenizer": self.tokenizer}


def open_subject(recipe: Recipe) -> Subject:
    """Read everything about the target but its weights, and check the recipe against it.

    Raises ModelDirectoryError for a directory that is no model, RecipeError for tapped layers that it does not have or
    whose states are never raw (the last one), and for a mask token it does not know, DrafterMismatch for a kind of
    target that has no drafters.
    """
    text = TextModel.load(recipe.target)
    config = json.loads((recipe.target / "config.json").read_text("utf-8"))
    layers, hidden_size = (_size(config, name, recipe.target) for name in ("num_hidden_layers", "hidden_size"))
    tapped = recipe.drafter.target_layer_ids
    if tapped[-1] >= layers - 1:
        raise RecipeError(
            f"drafter.target_layer_ids: {tapped[-1]} cannot be tapped; the target has {layers} layers, so −1 to "
            f"{layers - 2} can (what the last one gives is already normed)"
        )
    mask_token_id = _mask_token_id(recipe, text)
    drafter_config(_configuration(recipe.target), recipe.drafter, mask_token_id)
    return Subject(
        directory=recipe.target,
        identity=model_identity(recipe.target, recipe.output / "identities.json"),
        tokenizer=tokenizer_identity(recipe.target),
        text=text,
        layers=layers,
        hidden_size=hidden_size,
        mask_token_id=mask_token_id,
    )


def drafter_config(
    target: Mapping[str, Any], section: DrafterSection, mask_token_id: int, *, anchors: int = 512
) -> DSparkConfig:
    """The configuration of a drafter for a target with the configuration `target` (`config.to_dict()`).

    Raises DrafterMismatch for a kind of target that has no drafters, or whose drafter is not told its shape.
    """
    try:
        return DSparkConfig.for_target(
            target,
            num_hidden_layers=section.layers,
            block_size=section.block_size,
            mask_token_id=mask_token_id,
            target_layer_ids=list(section.target_layer_ids),
            enable_confidence_head=section.confidence,
            confidence_head_with_markov=section.confidence and section.markov_rank > 0,
            markov_rank=section.markov_rank,
            markov_head_type=section.markov_head,
            num_anchors=anchors,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DrafterMismatch(
            f"a drafter for a target of type {target.get('model_type')!r} cannot be made from its config.json: "
            f"{field or 'the configuration'}: {first['msg']}",
            param=field or None,
        ) from error


def _configuration(directory: Path) -> dict[str, Any]:
    """The target's configuration as transformers completes it. Raises ModelDirectoryError."""
    from transformers import AutoConfig

    try:
        values: dict[str, Any] = AutoConfig.from_pretrained(directory, local_files_only=True).to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise ModelDirectoryError(
            f"{directory}/config.json: {(str(error).splitlines() or ['unreadable'])[0]}"
        ) from error
    return values


def model_identity(directory: Path, cache: Path | None = None) -> str:
    """sha256 hex over a model directory's configuration and weights; file hashes are kept in the JSON file `cache`.

    A kept hash counts while size and time of change are the same. Raises ModelDirectoryError.
    """
    files = [directory / name for name in _MODEL_FILES if (directory / name).is_file()]
    weights = sorted(directory.glob("*.safetensors"))
    if not (directory / "config.json").is_file() or not weights:
        raise ModelDirectoryError(f"model directory {directory} needs config.json and .safetensors weights")
    known: dict[str, str] = {}
    if cache is not None:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(cache.read_text("utf-8"))
    before = dict(known)
    digest = hashlib.sha256()
    for path in (*files, *weights):
        stat = path.stat()
        key = f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            known[key] = file_sha256(path)
        digest.update(f"{path.name} {stat.st_size} {known[key]}\n".encode())
    if cache is not None and known != before:
        write_json(cache, known)
    return digest.hexdigest()


def tokenizer_identity(directory: Path) -> str:
    """sha256 hex over what decides how a prompt becomes tokens: tokenizer.json and the chat template."""
    digest = hashlib.sha256()
    for path in filter(Path.is_file, map(partial(Path.joinpath, directory), _TOKENIZER_FILES)):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    settings = directory / "tokenizer_config.json"
    if settings.is_file():
        template = json.loads(settings.read_text("utf-8")).get("chat_template")
        digest.update(json.dumps(template, sort_keys=True).encode())
    return digest.hexdigest()


def _mask_token_id(recipe: Recipe, text: TextModel) -> int:
    """The id of the recipe's mask token, or the first id of the vocabulary that no token uses."""
    wanted = recipe.drafter.mask_token
    if wanted is None:
        if text.used_tokens >= text.vocab_size:
            raise RecipeError("drafter.mask_token: every id of the target's vocabulary is in use; name a token to take")
        return text.used_tokens
    found = text.token_id(wanted)
    if found is None:
        raise RecipeError(
            f"drafter.mask_token: the target's tokenizer has no token '{wanted}'; null takes an id that no token uses"
        )
    return found


def _size(config: dict[str, object], name: str, directory: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise ModelDirectoryError(f"{directory}/config.json: {name} must be a positive integer, found {value!r}")
    return value
