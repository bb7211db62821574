"""Tensors of a drafter directory: read from its safetensors shards, checked against what config.json promises."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from outrider.errors import DrafterMismatch, ModelDirectoryError

__all__ = ["check_shapes", "read_tensors", "write_tensors"]

WEIGHTS = "model.safetensors"

Shape = tuple[int, ...]


def read_tensors(directory: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of all shards by name, or those of `names` that are there.

    Raises ModelDirectoryError when there is no shard or one is unreadable.
    """
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        raise ModelDirectoryError(f"drafter {directory.name} has no {WEIGHTS}", param=WEIGHTS)
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as held:
                wanted = [name for name in held.keys() if names is None or name in names]  # noqa: SIM118
                tensors |= {name: held.get_tensor(name) for name in wanted}
        except (SafetensorError, OSError) as error:
            raise ModelDirectoryError(f"drafter {directory.name}: {shard.name} is unreadable: {error}") from None
    return tensors


def check_shapes(directory: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> None:
    """Raise DrafterMismatch, naming the tensor, unless every expected one is there in its shape and no other is."""
    for name, shape in expected.items():
        if name not in tensors:
            raise DrafterMismatch(
                f"drafter {directory.name}: no tensor {name} in its safetensors files, config.json asks for it",
                param=name,
            )
        found = tuple(tensors[name].shape)
        if found != shape:
            reason = ": its columns are target_layer_ids times hidden_size" if name == "fc.weight" else ""
            raise DrafterMismatch(
                f"drafter {directory.name}: tensor {name} is {list(found)}, config.json asks for {list(shape)}{reason}",
                param=name,
            )
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise DrafterMismatch(f"drafter {directory.name}: unknown tensor {unknown[0]}", param=unknown[0])


def write_tensors(directory: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write model.safetensors; joined inference weights may make parameters views of one storage, hence the clones."""
    kept = {name: value.detach().to(dtype).clone().contiguous() for name, value in tensors.items()}
    save_file(kept, directory / WEIGHTS, metadata={"format": "pt"})
