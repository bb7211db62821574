"""The target deployment: one engine in its own process, its drafter's supervisor, and the tokens' way out."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Literal

from outrider.types import GenerationRequest
from outrider_deployments.cost_profile import fresh_costs
from outrider_deployments.open_requests import OpenRequests
from outrider_deployments.replica_logs import join_serve_logs
from outrider_deployments.sockets import Reach
from outrider_deployments.token_channel import TokenPublisher

if TYPE_CHECKING:
    from pathlib import Path

    from ray.serve.handle import DeploymentHandle

    from outrider.engine import Engine
    from outrider.link import DraftLink
    from outrider.scheduling import CostModel, CostSubject
    from outrider_deployments.config import ModelConfig, Timeouts
    from outrider_deployments.preflight import ModelPaths
    from outrider_deployments.supervisor import DrafterAddress, DrafterSupervisor

__all__ = ["TargetReplica"]

logger = logging.getLogger(__name__)

CLOSE_S = 5.0


class TargetReplica:
    """Serve places it and opens one call per request; everything a round needs goes over sockets of its own."""

    def __init__(
        self,
        name: str,
        model: ModelConfig,
        paths: ModelPaths,
        timeouts: Timeouts,
        draft: DeploymentHandle | None,
        sockets: Literal["host", "cluster"] = "host",
    ) -> None:
        join_serve_logs()
        # Torch is imported here, not by the driver that only names this class.
        from outrider.engine import EngineLoop

        reach = Reach.of(sockets)
        self._keys = reach.keys if reach else None
        engine = _load(name, model, paths, timeouts)
        if model.link == "in-process" and paths.drafter is not None:
            engine.attach_drafter(_beside(engine, name, model, paths.drafter))
        self._engine = EngineLoop(engine, lambda chunks, load: self._requests.on_round(chunks, load))
        self._publisher = TokenPublisher(self._engine.snapshot, lambda ids: self._requests.on_lost(ids), self._keys)
        self._requests = OpenRequests(self._engine, self._publisher)
        self._engine.start()
        self._supervisor = self._supervise(draft, timeouts)
        self._supervision = asyncio.ensure_future(self._supervisor.run()) if self._supervisor else None

    async def generate(self, request: GenerationRequest, gateway: str, *, replica: str = "") -> None:
        """Open until the request has ended; its tokens go to `gateway`, the address of a token channel.

        replica: where it was to run, which `ChosenReplicaRouter` has read.
        """
        await self._requests.run(request, gateway)

    async def attach_gateway(self, gateway: str) -> None:
        """Report load to the token channel at `gateway` from now on."""
        self._publisher.attach(gateway)

    async def drafter_refusal(self) -> str | None:
        """Why this target's drafter is not used, if it was refused for good."""
        return self._supervisor.refusal if self._supervisor else None

    def check_health(self) -> None:
        """Serve's health check: raises once the engine thread is gone, and Serve starts another replica."""
        if not self._engine.alive:
            raise RuntimeError("the engine thread ended")

    async def __del__(self) -> None:
        """Serve calls this after the last open request has ended."""
        if not hasattr(self, "_requests"):
            return
        if self._supervision is not None:
            self._supervision.cancel()
        await asyncio.to_thread(self._engine.close, CLOSE_S)
        await asyncio.to_thread(self._publisher.close)

    def _supervise(self, draft: DeploymentHandle | None, timeouts: Timeouts) -> DrafterSupervisor | None:
        hello = self._engine.info.hello
        if draft is None or hello is None:
            return None
        from outrider.link import ZmqDraftLink
        from outrider_deployments.supervisor import DrafterSupervisor

        async def locate() -> DrafterAddress:
            address: DrafterAddress = await draft.endpoint.remote()
            return address

        return DrafterSupervisor(
            self._engine, locate, lambda endpoint: ZmqDraftLink.connect(endpoint, hello, timeouts.link_s, self._keys)
        )


def _beside(engine: Engine, name: str, model: ModelConfig, directory: Path) -> DraftLink:
    """A drafter in this process, on the target's device."""
    import torch

    from outrider.drafter.dspark import DSparkProposer
    from outrider.drafter.model import DSparkModel
    from outrider.drafter.server import DraftServer
    from outrider.link import InProcessLink, TargetHello

    target, place = engine.target, model.draft
    assert target.projection is not None
    drafter = DSparkModel.load(directory, getattr(torch, place.dtype)).to(place.device)
    server = DraftServer(DSparkProposer(drafter, compiled=place.compile == "background"), f"{name}-drafter")
    hello = TargetHello(name, target.vocab_size, target.hidden_size, target.projection.fingerprint)
    return InProcessLink(server, hello)


def _load(name: str, model: ModelConfig, paths: ModelPaths, timeouts: Timeouts) -> Engine:
    """The engine of one target; what rounds cost is measured here, or was on this machine: another's would be wrong."""
    import torch
    from ray import serve

    from outrider.engine import Engine, EngineSettings, Profile, TargetModel, cost_subject, measure_steps, role

    place = model.target
    torch.set_num_threads(place.threads)
    dtype: torch.dtype = getattr(torch, place.dtype)
    compiled = place.compile == "background"
    target = TargetModel.load(paths.target, drafter=paths.drafter, dtype=dtype, device=place.device, compiled=compiled)
    block = 1 + (target.projection.block_size if target.projection else 0)
    drafter_role = role(model.draft.device, model.draft.dtype, model.draft.threads)

    def subject() -> CostSubject:
        return cost_subject(target, paths.drafter, drafter_role=drafter_role, link=model.link)

    def steps() -> CostModel:
        return measure_steps(target, subject=subject(), max_tokens=min(256, model.max_running_requests * block))

    settings = EngineSettings(
        model=name,
        replica=serve.get_replica_context().replica_id.unique_id,
        kv_blocks=model.kv_blocks,
        block_size=model.block_size,
        prefix_cache=model.prefix_cache,
        scheduler=model.scheduler,
        tenant_draft_tokens=model.tenant_draft_tokens,
        calibration_share=model.calibration_share,
        max_running_requests=model.max_running_requests,
        max_queued_requests=model.max_queued_requests,
        draft_timeout_s=timeouts.link_s,
    )
    profile = Profile(steps, model.max_running_requests)
    if paths.costs is None:
        return Engine(target, settings, steps(), profile=profile)
    target.settle()
    return Engine(target, settings, fresh_costs(paths.costs, model, subject()), profile=profile)
