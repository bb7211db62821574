"""The drafter of the baseline "fixed 1": one block of one token, trained as such, so that depth 1 is not handicapped.

Kept without the two matrices that are frozen copies of its target's, and made whole from that target when needed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from outrider.drafter.loading import read_tensors, write_tensors
from outrider.errors import ConfigurationError, DrafterMismatch, ModelDirectoryError

__all__ = ["is_kept", "keep_trained", "make_whole"]

_FROZEN = ("embed_tokens.weight", "lm_head.weight")
_SOURCES = ("model.embed_tokens.weight", "lm_head.weight")
_CHECK = "frozen.json"


def keep_trained(drafter: Path, out: Path) -> Path:
    """Write what training changed of a drafter to `out`, which must be new, with a hash of what it leaves out."""
    tensors = read_tensors(drafter)
    out.mkdir(parents=True)
    shutil.copyfile(drafter / "config.json", out / "config.json")
    write_tensors(
        out, {name: value for name, value in tensors.items() if name not in _FROZEN}, tensors["fc.weight"].dtype
    )
    (out / _CHECK).write_text(json.dumps({"sha256": _digest(tensors)}, indent=2) + "\n", encoding="utf-8")
    return out


def is_kept(drafter: Path) -> bool:
    """Whether a drafter's directory lacks its target's matrices."""
    return (drafter / _CHECK).exists()


def make_whole(kept: Path, target: Path, out: Path) -> Path:
    """Write `kept` with its target's embeddings and output matrix to `out`, which must be new: a DeepSpec drafter.

    Raises ConfigurationError when `out` exists, ModelDirectoryError when a file is missing, DrafterMismatch when the
    target's matrices are not those the drafter was trained with.
    """
    if out.exists():
        raise ConfigurationError(f"{out} exists: give a directory that does not", param="out")
    trained, held = read_tensors(kept), read_tensors(target, _SOURCES)
    if _SOURCES[0] not in held:
        raise ModelDirectoryError(f"model {target.name} has no tensor {_SOURCES[0]}", param=_SOURCES[0])
    kind = trained["fc.weight"].dtype
    whole = trained | {
        name: held.get(source, held[_SOURCES[0]]).to(kind) for name, source in zip(_FROZEN, _SOURCES, strict=True)
    }
    try:
        expected = json.loads((kept / _CHECK).read_text("utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelDirectoryError(f"drafter {kept.name}: {_CHECK} holds no sha256: {error}", param=_CHECK) from error
    if _digest(whole) != expected:
        raise DrafterMismatch(
            f"drafter {kept.name} was trained with other embeddings than {target.name}'s; train it again with "
            "outrider draft train",
            param="target",
        )
    out.mkdir(parents=True)
    shutil.copyfile(kept / "config.json", out / "config.json")
    write_tensors(out, whole, kind)
    return out


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 hex over the fp32 bytes of the frozen matrices."""
    digest = hashlib.sha256()
    for name in _FROZEN:
        digest.update(tensors[name].to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
