"""Checkpoints on disks that are full, and files that are none."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from outrider.errors import ArtifactBroken
from outrider.training.storage import load_checkpoint, save_checkpoint

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 1 << 18])
def test_a_full_disk_is_said_as_such_and_keeps_the_last_checkpoint(tmp_path: Path, size: int) -> None:
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, {"step": 1})
    path.with_suffix(".partial").symlink_to(FULL)
    with pytest.raises(OSError, match="No space") as refusal:
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(size)})
    assert refusal.value.errno == errno.ENOSPC
    assert load_checkpoint(path) == {"step": 1}
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 2}


@pytest.mark.parametrize("content", [b"", b"x" * 50, b"PK\x03\x04 no archive"])
def test_what_is_no_checkpoint_is_named_with_its_cure(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.ckpt"
    path.write_bytes(content)
    with pytest.raises(ArtifactBroken, match=r"run\.ckpt: not a readable checkpoint .*remove the file") as refusal:
        load_checkpoint(path)
    assert "\n" not in refusal.value.message


def test_a_checkpoint_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ArtifactBroken, match=r"run\.ckpt: not a readable checkpoint"):
        load_checkpoint(path)
