"""What costs are of: the models, what runs them, and the machine."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import torch

from outrider.engine.target import TargetModel
from outrider.scheduling import CostSubject

__all__ = ["cost_subject", "cpu_name", "role"]

_SAMPLED_BYTES = 1 << 16


def cost_subject(
    target: TargetModel, drafter: Path | None = None, *, drafter_role: str = "", link: str = ""
) -> CostSubject:
    """The subject of costs measured here and now; without a drafter its role and link do not matter."""
    device = target.device.type
    dtype = str(target.dtype).removeprefix("torch.")
    processor = torch.cuda.get_device_name(target.device) if device == "cuda" else cpu_name()
    return CostSubject(
        target="unsaved" if target.directory is None else _digest(target.directory),
        target_role=role(device, dtype, torch.get_num_threads()),
        step_kind=target.step_kind,
        cpu=f"{processor} x{os.cpu_count() or 0}",
        drafter="" if drafter is None else _digest(drafter),
        drafter_role="" if drafter is None else drafter_role,
        link="" if drafter is None else link,
    )


def role(device: str, dtype: str, threads: int) -> str:
    """What one side runs on."""
    return f"{device}/{dtype}/{threads}"


def cpu_name() -> str:
    """The processor as Linux names it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _digest(directory: Path) -> str:
    """Of a model directory: its configuration, and size, head and tail of every weight file.

    Times depend on shapes, which the heads list; the tails tell one training from another without reading gigabytes.
    """
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as weights:
            digest.update(weights.read(_SAMPLED_BYTES))
            weights.seek(max(0, size - _SAMPLED_BYTES))
            digest.update(weights.read())
    return digest.hexdigest()[:16]
