"""The drafter's input projection, which runs beside the target: C = hidden_norm(fc(F)).

Shapes: n rows, m tapped layers, d the target's hidden size. Projecting here sends d values per token over the link
instead of m·d (arXiv 2607.05147).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from outrider.errors import DrafterMismatch, ModelDirectoryError

__all__ = ["FeatureProjection", "projection_fingerprint"]


def projection_fingerprint(fc: Tensor, hidden_norm: Tensor) -> str:
    """sha256 hex over the fp32 bytes of fc [d, m·d] and hidden_norm [d]: equal exactly when both project alike."""
    digest = hashlib.sha256(fc.detach().float().contiguous().cpu().numpy().tobytes())
    digest.update(hidden_norm.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FeatureProjection:
    """fc [d, m·d] and hidden_norm [d] of one drafter with the target layers it taps (−1: the embedding output)."""

    fc: Tensor
    hidden_norm: Tensor
    eps: float
    layer_ids: tuple[int, ...]
    block_size: int
    fingerprint: str

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        context_tokens: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> FeatureProjection:
        """Read a DeepSpec drafter directory for a target of the given vocabulary, hidden size, depth and context.

        Raises ModelDirectoryError when a file is missing or unreadable, DrafterMismatch when the drafter was made for
        another target: vocabulary, hidden size, fewer positions than the target's context (a longer request would break
        the link for everyone), or a tapped layer that is out of range or the final one (whose hidden state is post-norm
        and was never in the training cache).
        """
        config = _read_config(directory)
        name = directory.name
        for field, ours in (("vocab_size", vocab_size), ("hidden_size", hidden_size)):
            if config.get(field) != ours:
                raise DrafterMismatch(
                    f"drafter {name}: config.json {field} is {config.get(field)}, its target has {ours}",
                    param=field,
                )
        if config["max_position_embeddings"] < context_tokens:
            raise DrafterMismatch(
                f"drafter {name}: config.json max_position_embeddings is {config['max_position_embeddings']}, its "
                f"target's context has {context_tokens}",
                param="max_position_embeddings",
            )
        layer_ids = tuple(config["target_layer_ids"])
        for layer in layer_ids:
            if not -1 <= layer < num_layers - 1:
                kind = "the final layer" if layer == num_layers - 1 else "out of range"
                raise DrafterMismatch(
                    f"drafter {name}: target_layer_ids names layer {layer}, which is {kind} for a target of "
                    f"{num_layers} layers; legal are -1 to {num_layers - 2}",
                    param="target_layer_ids",
                )
        fc, norm = _read_tensors(directory, ("fc.weight", "hidden_norm.weight"))
        wanted = (hidden_size, len(layer_ids) * hidden_size)
        if tuple(norm.shape) != (hidden_size,):
            raise DrafterMismatch(
                f"drafter {name}: hidden_norm.weight is {list(norm.shape)} where [{hidden_size}] is needed",
                param="hidden_norm.weight",
            )
        if tuple(fc.shape) != wanted or not layer_ids:
            raise DrafterMismatch(
                f"drafter {name}: fc.weight is {list(fc.shape)} where {list(wanted)} is needed for the "
                f"{len(layer_ids)} layers in target_layer_ids",
                param="target_layer_ids",
            )
        return cls(
            fc=fc.to(dtype),
            hidden_norm=norm.to(dtype),
            eps=config["rms_norm_eps"],
            layer_ids=layer_ids,
            block_size=config["block_size"],
            fingerprint=projection_fingerprint(fc, norm),
        )

    def to(self, device: torch.device) -> FeatureProjection:
        """The same projection with its tensors on `device`."""
        return FeatureProjection(
            self.fc.to(device),
            self.hidden_norm.to(device),
            self.eps,
            self.layer_ids,
            self.block_size,
            self.fingerprint,
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Rows C [n, d] from concatenated tapped hidden states F [n, m·d]."""
        return torch.rms_norm(features @ self.fc.T, self.hidden_norm.shape, self.hidden_norm, self.eps)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not directory.is_dir():
        raise ModelDirectoryError(f"drafter directory {directory} does not exist", param="drafter")
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelDirectoryError(f"drafter {directory.name} has no config.json", param="drafter") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelDirectoryError(f"drafter {directory.name}: config.json is not JSON: {error}") from None
    if not isinstance(config, dict) or "block_size" not in config or "target_layer_ids" not in config:
        raise ModelDirectoryError(
            f"drafter {directory.name}: config.json lacks block_size or target_layer_ids; is it a DSpark drafter?",
            param="drafter",
        )
    config = {"rms_norm_eps": 1e-6, "max_position_embeddings": 0, **config}
    layer_ids = config["target_layer_ids"]
    for field, right in (
        ("block_size", _whole(config["block_size"]) and config["block_size"] > 0),
        ("max_position_embeddings", _whole(config["max_position_embeddings"])),
        ("target_layer_ids", isinstance(layer_ids, list) and all(map(_whole, layer_ids))),
        ("rms_norm_eps", isinstance(config["rms_norm_eps"], float) and config["rms_norm_eps"] > 0),
    ):
        if not right:
            raise DrafterMismatch(
                f"drafter {directory.name}: config.json {field} is {config[field]!r}, of a wrong type or range",
                param=field,
            )
    return config


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_tensors(directory: Path, names: tuple[str, ...]) -> list[Tensor]:
    """The named tensors in fp32 from the safetensors shards of a directory."""
    found: dict[str, Tensor] = {}
    for shard in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(shard, framework="pt") as tensors:
                found |= {name: tensors.get_tensor(name).float() for name in names if name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelDirectoryError(f"drafter {directory.name}: {shard.name} is unreadable: {error}") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise ModelDirectoryError(f"drafter {directory.name}: no tensor {missing[0]} in its safetensors files")
    return [found[name] for name in names]
