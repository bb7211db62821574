"""Where the check runs and how long it may: a device, a deadline, and what parts learn for those after them."""

from __future__ import annotations

import gc
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import outrider
from outrider.bench.gpu.figures import NO_GPU, Figure
from outrider.bench.gpu.models import RandomPair

__all__ = ["Part", "Stand", "describe_device", "describe_versions", "release"]

_PACKAGES = ("torch", "triton", "transformers", "numpy", "pydantic", "safetensors", "tokenizers")
_SMI_FIELDS = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"


@dataclass(slots=True)
class Stand:
    """The circumstances of a run. `ends_s` by the monotonic clock: no part begins anything after it.

    copy_bytes_s, bf16_operations_s: what this device did, once measured. pair: the random models, once built.
    """

    device: torch.device
    smoke: bool
    ends_s: float
    preset: str
    copy_bytes_s: float | None = None
    bf16_operations_s: float | None = None
    pair: RandomPair | None = None
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether anything that runs here is a measurement."""
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.ends_s - time.monotonic()

    def missing(self, part: str, name: str, unit: str, reason: str, **more: Any) -> Figure:
        """A figure without a value; without a GPU that is the reason, whatever else was."""
        return Figure(part, name, unit, reason=reason if self.on_gpu else NO_GPU, **more)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the check: it is skipped where less than `needs_s` seconds are left."""

    name: str
    needs_s: float
    run: Callable[[Stand], list[Figure]]


def release() -> None:
    """Give back what engines before held: graphs and their memory go with the objects that a collection finds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe_device(device: torch.device) -> dict[str, Any]:
    """What the document says of the device, and of what else may disturb it."""
    if device.type != "cuda":
        return {"type": "cpu", "name": platform.machine(), "cpus": os.cpu_count()}
    found = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_bytes": found.total_memory,
        "free_bytes_at_start": torch.cuda.mem_get_info(device)[0],
        "multiprocessors": found.multi_processor_count,
        "l2_bytes": found.L2_cache_size,
        "cpus": os.cpu_count(),
        **_asked_of_driver(device),
    }


def describe_versions() -> dict[str, str]:
    """Versions of what ran."""
    found = {"outrider": outrider.__version__, "python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _asked_of_driver(device: torch.device) -> dict[str, Any]:
    """Driver, clocks and other processes as the driver's own tool tells them; nothing where it is absent."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    place = ["-i", str(device.index or 0)]
    try:
        told = _output([tool, *place, f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader"])
        others = _output([tool, *place, "--query-compute-apps=pid", "--format=csv,noheader"]).split()
    except (OSError, subprocess.SubprocessError):
        return {}
    clocks = dict(zip(_SMI_FIELDS.split(","), [each.strip() for each in told.split(",")], strict=False))
    return {"clocks": clocks, "other_processes": len([pid for pid in others if pid != str(os.getpid())])}


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
