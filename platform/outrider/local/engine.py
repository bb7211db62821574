"""One target, with its drafter in this process or in a second one, driven by the caller's thread."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from outrider.drafter.model import DSparkModel
from outrider.drafter.proposer import Proposer
from outrider.drafter.server import DraftServer
from outrider.engine import Engine, EngineSettings, Profile, TargetModel, cost_subject, measure_steps, role
from outrider.errors import LinkError
from outrider.link import DraftLink, InProcessLink, TargetHello
from outrider.scheduling import CostModel, StepCostCurve
from outrider.types import FinishReason, GenerationRequest, RequestSummary, TokenChunk

__all__ = ["Completion", "LinkKind", "LocalEngine", "open_engine"]

OnChunk = Callable[[str, TokenChunk], None]


class LinkKind(StrEnum):
    """Where the drafter runs: beside the target in one process, or in a process of its own over ZeroMQ."""

    IN_PROCESS = "in-process"
    PROCESS = "process"


@dataclass(slots=True)
class Completion:
    """What one request produced: its tokens, why it ended, and the engine's summary."""

    request_id: str
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    summary: RequestSummary | None = None
    error: str | None = None


class LocalEngine:
    """An engine and its drafter. A context manager: leaving it ends the second process."""

    def __init__(
        self,
        engine: Engine,
        drafter: Path | None,
        link: LinkKind,
        connect_timeout_s: float = 60.0,
        *,
        draft_device: str = "cpu",
        draft_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.engine = engine
        self._draft_device, self._draft_dtype = draft_device, draft_dtype
        self._drafter = drafter
        self._link = link
        self._connect_timeout_s = connect_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._folder: str | None = None
        if drafter is not None:
            self.attach_drafter()

    def attach_drafter(self) -> None:
        """Start a new incarnation of the drafter and attach it; a running one is ended first."""
        if self._drafter is None:
            raise LinkError("this engine was opened without a drafter")
        self._end_process()
        self.engine.attach_drafter(self._connect(self._drafter))

    def attach_proposer(self, proposer: Proposer, name: str) -> None:
        """Draft with any proposer in this process: a baseline needs no drafter directory.

        Raises DrafterMismatch when it was not made for this target.
        """
        self._end_process()
        self.engine.attach_drafter(InProcessLink(DraftServer(proposer, name), self._hello()))

    def _hello(self) -> TargetHello:
        target = self.engine.target
        fingerprint = target.projection.fingerprint if target.projection else ""
        return TargetHello(self.engine.settings.model, target.vocab_size, target.hidden_size, fingerprint)

    def _connect(self, drafter: Path) -> DraftLink:
        if self.engine.target.projection is None:
            raise LinkError("the target was loaded without its drafter's projection")
        if self._link is LinkKind.IN_PROCESS:
            model = DSparkModel.load(drafter, self._draft_dtype).to(self._draft_device)
            return InProcessLink(DraftServer(model, drafter.name), self._hello())
        from outrider.link import ZmqDraftLink  # only here is ZeroMQ needed

        self._folder = tempfile.mkdtemp(prefix="outrider-")
        endpoint = f"ipc://{self._folder}/draft"
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "outrider.drafter.process",
                str(drafter),
                endpoint,
                str(torch.get_num_threads()),
                self._draft_device,
                str(self._draft_dtype).removeprefix("torch."),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_WAIT_POLICY": "PASSIVE",
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
        )
        if self._process.stdout is None or self._process.stdout.readline().strip() != "ready":
            raise LinkError(f"the drafter process for {drafter.name} ended before it was ready")
        return ZmqDraftLink.connect(endpoint, self._hello(), self._connect_timeout_s)

    def kill_drafter(self) -> None:
        """Kill the drafter's process without a word, as a crash would (in-process drafters are detached)."""
        if self._process is None:
            self.engine.drafting.detach()
        else:
            self._process.kill()
            self._process.wait()

    def generate(self, requests: Sequence[GenerationRequest], on_chunk: OnChunk | None = None) -> list[Completion]:
        """Run the requests to their end, all at once, in the order given; raises what `Engine.submit` raises."""
        done = {request.request_id: Completion(request.request_id) for request in requests}
        if self.engine.idle:
            self.engine.renew_costs()
        for request in requests:
            self.engine.submit(request)
        while not self.engine.idle:
            time.sleep(self.engine.admission_wait_s)
            for request_id, chunk in self.engine.step():
                completion = done[request_id]
                completion.tokens += chunk.tokens
                completion.finish, completion.summary, completion.error = (
                    chunk.finish,
                    chunk.summary,
                    chunk.error,
                )
                if on_chunk is not None:
                    on_chunk(request_id, chunk)
        return list(done.values())

    def close(self) -> None:
        """Detach the drafter and end its process. Idempotent."""
        self.engine.drafting.detach()
        self._end_process()

    def _end_process(self) -> None:
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_engine(
    target: Path,
    drafter: Path | None = None,
    *,
    link: LinkKind = LinkKind.IN_PROCESS,
    settings: EngineSettings | None = None,
    curve: StepCostCurve | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LocalEngine:
    """Load a target directory and, if given, its drafter, which runs on the same device in the same dtype; what rounds
    cost is measured here unless a curve is passed.

    Raises ModelDirectoryError, DrafterMismatch, LinkError.
    """
    model = TargetModel.load(target, drafter=drafter, dtype=dtype, device=device)
    settings = settings or EngineSettings(model=target.name)
    beside: dict[str, Any] = {"draft_device": device, "draft_dtype": dtype}
    if curve is not None:
        return LocalEngine(Engine(model, settings, curve), drafter, link, **beside)
    block = 1 + (model.projection.block_size if model.projection else 0)
    largest = min(256, settings.max_running_requests * block)
    drafter_role = role(model.device.type, str(dtype).removeprefix("torch."), torch.get_num_threads())

    def steps() -> CostModel:
        subject = cost_subject(model, drafter, drafter_role=drafter_role, link=link.value)
        return measure_steps(model, subject=subject, max_tokens=largest)

    profile = Profile(steps, settings.max_running_requests)
    return LocalEngine(Engine(model, settings, steps(), profile=profile), drafter, link, **beside)
