"""Ways to spoil a copied model directory, for tables of refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

__all__ = ["Change", "config", "gone", "tensors", "text", "without"]

Change = Callable[[Path], None]


def config(**changes: Any) -> Change:
    """Set fields of config.json; None removes one."""

    def change(directory: Path) -> None:
        path = directory / "config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return change


def tensors(**changes: torch.Tensor | None) -> Change:
    """Set tensors of model.safetensors; None removes one. Dots are written as two underscores."""

    def change(directory: Path) -> None:
        path = directory / "model.safetensors"
        held = load_file(path) | {key.replace("__", "."): value for key, value in changes.items()}
        save_file({key: value for key, value in held.items() if value is not None}, path, metadata={"format": "pt"})

    return change


def text(name: str, content: str) -> Change:
    return lambda directory: (directory / name).write_text(content) and None


def without(name: str) -> Change:
    return lambda directory: (directory / name).unlink()


def gone(directory: Path) -> None:
    shutil.rmtree(directory)
