"""Files that are either whole or absent: everything is written beside its place and moved into it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from outrider.errors import ArtifactBroken

__all__ = ["fingerprint", "load_checkpoint", "replace_directory", "save_checkpoint", "sync_directory", "write_json"]


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """`torch.save`, atomically; a crash or a full disk leaves the previous checkpoint. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            watched = _Watched(stream)
            try:
                torch.save(dict(state), watched)  # type: ignore[arg-type]
            except RuntimeError as error:  # what torch makes of a write that failed
                raise watched.failure or error from None
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last whole checkpoint, or None. Raises ArtifactBroken for a file that is none."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactBroken(
            f"{path}: not a readable checkpoint ({reason.split('. ')[0]}); remove the file to start from the first step"
        ) from error
    return state


class _Watched:
    """A stream that remembers why it could not be written: torch reports a full disk as a wrong position."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._stream.write(content)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._stream.flush()


def replace_directory(directory: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a fresh directory, then swap it in for `directory`."""
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(partial)
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(partial, directory)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Indented JSON, atomically and on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(value: object) -> str:
    """Sixteen hex digits that change when `value` (anything JSON can hold) does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
