"""What is measured and where: model directories, arithmetic, threads, and the machine they run on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import outrider
from outrider.engine import EngineSettings, cpu_name
from outrider.local import LinkKind, LocalEngine, open_engine
from outrider.scheduling import StepCostCurve
from outrider.types import GenerationRequest, SamplingParams, Verification

__all__ = ["UNTRIMMED", "Setup", "requests_for", "surroundings"]

UNTRIMMED = StepCostCurve(tokens=(1, 1 << 20), seconds=(1.0, 1.0), version="untrimmed")
"""A curve under which verifying is free, so that Algorithm 1 admits every drafted token. Never serve with it."""

_PACKAGES = ("torch", "transformers", "numpy", "pyzmq")


@dataclass(frozen=True, slots=True)
class Setup:
    """The models and how they are run. `threads` holds for every arm and for each of its processes."""

    target: Path
    drafter: Path
    threads: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    held_out: Path | None = None

    def open(
        self,
        link: LinkKind,
        *,
        streams: int,
        drafted: bool = True,
        curve: StepCostCurve | None = None,
        kv_blocks: int = 4096,
        prefix_cache: bool = False,
    ) -> LocalEngine:
        """A fresh engine that runs up to `streams` requests at a time and queues the rest.

        The step curve is measured here unless one is given; without a drafter nothing asks for it. Repetitions ask the
        same again, so prefixes are not reused unless that is what is measured.
        """
        settings = EngineSettings(
            model=self.target.name,
            kv_blocks=kv_blocks,
            max_running_requests=streams,
            max_queued_requests=1 << 20,
            draft_timeout_s=10.0,
            prefix_cache=prefix_cache,
        )
        return open_engine(
            self.target,
            self.drafter if drafted else None,
            link=link,
            settings=settings,
            curve=curve if drafted else UNTRIMMED,
            dtype=self.dtype,
            device=self.device,
        )

    def configuration(self) -> dict[str, Any]:
        """What is run and where."""
        return {
            "target": self.target.name,
            "drafter": self.drafter.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device,
            "torch_threads": self.threads,
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
            **surroundings(),
        }


def surroundings() -> dict[str, Any]:
    """This machine and checkout, as they are now: other work on the machine shows in the load average."""
    return {
        "cpus": os.cpu_count() or 0,
        "cpu": cpu_name(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {"outrider": outrider.__version__, "python": platform.python_version(), **_versions()},
        "revision": _revision(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def requests_for(
    prompts: list[tuple[int, ...]],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    depth_cap: int | None = None,
    ignore_eos: bool = False,
    verification: Verification = "coupled",
) -> list[GenerationRequest]:
    """One request per prompt, named by its place; request i samples with seed + i."""
    return [
        GenerationRequest(
            f"bench-{place}",
            prompt,
            SamplingParams(
                max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed + place,
                ignore_eos=ignore_eos,
                verification=verification,
            ),
            depth_cap=depth_cap,
        )
        for place, prompt in enumerate(prompts)
    ]


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _revision() -> str:
    """The checkout's commit, with `+` when files differ from it; `unknown` outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
