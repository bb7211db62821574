"""A target's local directory, read through stock `transformers`: refused by name and reason before it can mislead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from outrider.engine.attention import ATTENTION_NAME
from outrider.errors import ModelDirectoryError

__all__ = ["context_tokens", "end_tokens", "read_config", "read_weights"]

_INDEX = "model.safetensors.index.json"
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_NO_PARAMETERS = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")
"""Buffers that old checkpoints hold although nothing reads them."""


def read_config(directory: Path) -> Any:
    """The `transformers` configuration of a decoder-only model that attends by softmax alone.

    Raises ModelDirectoryError for a missing or unreadable file, and for what can not be served, by its own declaration.
    """
    name = directory.name
    if not directory.is_dir():
        raise ModelDirectoryError(f"model directory {directory} does not exist", param="directory")
    if not (directory / "config.json").is_file():
        raise ModelDirectoryError(f"model {name} has no config.json", param="directory")
    _check_weight_files(directory)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, KeyError, and the errors of strict dataclasses, which are neither
        raise ModelDirectoryError(f"model {name}: config.json does not load: {_reason(error)}") from error
    reason = _unserved(config)
    if reason:
        raise ModelDirectoryError(f"model {name} of type {config.model_type!r} {reason}", param="directory")
    return config


def read_weights(directory: Path, config: Any, dtype: torch.dtype) -> Any:
    """The model with every tensor from the directory, none invented and none left over.

    Raises ModelDirectoryError naming the file or tensor.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, by name, instead of as a table on the log
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelDirectoryError(f"model {directory.name}: weights do not load: {_reason(error)}") from error
    for tensor, found, wanted in sorted(report["mismatched_keys"]):
        raise ModelDirectoryError(
            f"model {directory.name}: tensor {tensor} is {list(found)}, config.json makes it {list(wanted)}"
        )
    for tensor in sorted(report["missing_keys"]):  # transformers would go on with random ones
        raise ModelDirectoryError(f"model {directory.name} has no tensor {tensor}")
    for tensor in sorted(report["unexpected_keys"]):
        if not tensor.endswith(_NO_PARAMETERS):
            raise ModelDirectoryError(
                f"model {directory.name}: tensor {tensor} has no place in the {config.model_type!r} model that "
                "config.json describes: weights and configuration are of different models"
            )
    return model


def context_tokens(config: Any) -> int:
    """Positions the model computes alike whoever shares its batch.

    With longrope that is the original context: beyond it the stock forward changes every position's frequencies.
    """
    limit: int = config.max_position_embeddings
    for rope in _ropes(getattr(config, "rope_parameters", None)):
        if rope.get("rope_type") == "longrope":
            own: int | None = rope.get("original_max_position_embeddings")
            limit = min(limit, own or getattr(config, "original_max_position_embeddings", limit))
    return limit


def end_tokens(directory: Path, config: Any) -> tuple[int, ...]:
    """End tokens of generation_config.json, else of config.json. Raises ModelDirectoryError when they are no ids."""
    value, source = getattr(config, "eos_token_id", None), "config.json"
    generation = directory / "generation_config.json"
    if generation.is_file():
        try:
            held = json.loads(generation.read_text("utf-8"))
        except ValueError as error:
            raise ModelDirectoryError(f"model {directory.name}: generation_config.json is not JSON: {error}") from None
        if isinstance(held, dict) and "eos_token_id" in held:
            value, source = held["eos_token_id"], generation.name
    ids = [value] if isinstance(value, int) else value or []
    if not isinstance(ids, list) or not all(isinstance(each, int) for each in ids):
        raise ModelDirectoryError(f"model {directory.name}: {source}: eos_token_id must be token ids, not {value!r}")
    return tuple(ids)


def _check_weight_files(directory: Path) -> None:
    """Every file the index names, or one model.safetensors, is there and has a whole header."""
    name, index, whole = directory.name, directory / _INDEX, directory / "model.safetensors"
    if not any(directory.glob("*.safetensors")):
        has_bin = any(directory.glob("*.bin"))
        fix = "; convert its .bin files: load them once with transformers and call save_pretrained" if has_bin else ""
        raise ModelDirectoryError(f"model {name} has no .safetensors weights{fix}", param="directory")
    files = [whole]
    if not whole.is_file():
        try:
            named = json.loads(index.read_text("utf-8"))["weight_map"].values()
            files = [directory / str(file) for file in sorted(set(named))]
        except FileNotFoundError:
            raise ModelDirectoryError(f"model {name} has neither model.safetensors nor {_INDEX}") from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelDirectoryError(f"model {name}: {_INDEX} holds no weight_map: {_reason(error)}") from None
    for file in files:
        if not file.is_file():
            raise ModelDirectoryError(f"model {name}: {_INDEX} names {file.name}, which does not exist")
        try:
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelDirectoryError(f"model {name}: {file.name} is damaged: {_reason(error)}") from error


def _unserved(config: Any) -> str | None:
    """Why the engine can not run what this configuration declares; None when nothing speaks against it."""
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    kinds = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if config.is_encoder_decoder:
        return "is an encoder-decoder; served are decoder-only models"
    if model_class is None:
        return "is no causal language model of transformers"
    if getattr(config, "quantization_config", None) is not None:
        return "is quantised (quantization_config); save it dequantised in bf16, fp16 or fp32"
    if kinds:
        return f"has layers of type {', '.join(sorted(kinds))}; served is softmax attention, full or sliding"
    if model_class._is_stateful:
        return "keeps a recurrent state beside attention (state-space or linear attention)"
    if not model_class._supports_attention_backend:
        return "computes its attention by itself, not through transformers' attention interface"
    if config.sub_configs:
        return f"is a composite of {', '.join(sorted(config.sub_configs))}; save its language model on its own"
    if not isinstance(getattr(config, "max_position_embeddings", None), int):
        return "has no max_position_embeddings in its config.json, so its context is unknown"
    return None


def _ropes(parameters: Any) -> Iterator[dict[str, Any]]:
    """The rope dictionaries of a configuration: one, or one per layer type."""
    if isinstance(parameters, dict):
        yield parameters
        for value in parameters.values():
            yield from _ropes(value)


def _reason(error: Exception) -> str:
    """An error's first line, and its second where the first only announces it."""
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in (lines[:2] if lines[0].endswith(":") else lines[:1]))
