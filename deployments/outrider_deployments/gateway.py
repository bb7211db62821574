"""The gateway deployment: the HTTP front, in a process that loads no model."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ray import serve
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outrider.errors import NotReady, PolicyError
from outrider.types import GenerationRequest
from outrider_deployments.control_client import ControlClient
from outrider_deployments.front import HttpFront
from outrider_deployments.replica_logs import join_serve_logs
from outrider_deployments.sockets import Reach
from outrider_deployments.upstream import GenerateCall, Upstreams

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from outrider.policy import Policy
    from outrider.policy.following import Documents, Follower
    from outrider_deployments.config import AppConfig
    from outrider_deployments.preflight import Preflight

__all__ = ["Gateway", "served_policy"]

ATTACH_S = 10.0
FIRST_POLICY_S = 120.0
POLL_S = 0.02
DRAIN_POLL_S = 0.05


class ServeTarget:
    """`TargetHandle` over a Serve handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def generate(self, request: GenerationRequest, gateway: str, replica: str) -> GenerateCall:
        call: GenerateCall = self._handle.generate.remote(request, gateway, replica=replica)
        return call

    async def attach_gateway(self, gateway: str) -> None:
        await self._handle.broadcast("attach_gateway", gateway).results_async(timeout_s=ATTACH_S)


@serve.ingress()
class Gateway:
    """Joins the policy, the texts and the targets into the application of `outrider.gateway`."""

    async def __init__(  # type: ignore[misc]
        self,
        config: AppConfig,
        found: Preflight,
        control: DeploymentHandle,
        targets: Mapping[str, DeploymentHandle],
    ) -> None:
        from outrider.accounting import LeasedAccountant
        from outrider.gateway import GatewaySettings, create_app
        from outrider.gateway.operators import operator_router
        from outrider.policy.following import Follower
        from outrider.quality import by_tags, load_assessor
        from outrider.telemetry import EventLog
        from outrider.text import TextModel

        join_serve_logs()
        client = ControlClient(control)
        self._follower = Follower(uuid.uuid4().hex, client, lambda documents: served_policy(documents, targets))
        self._following = asyncio.ensure_future(self._follower.run())
        self._accountant = LeasedAccountant(client, lambda: self._follower.last)
        handles = {name: ServeTarget(handle) for name, handle in targets.items()}
        self._upstreams = Upstreams(
            handles,
            stale_s=config.timeouts.snapshot_stale_s,
            events_per_s=config.gateway.events_per_s,
            replicas={name: model.replicas for name, model in config.models.items()},
            reach=Reach.of(config.sockets),
        )
        settings = GatewaySettings(snapshot_fresh_s=config.timeouts.snapshot_stale_s, facts=_facts(config))
        self._app = create_app(
            settings,
            lambda: self._follower.policy,
            self._upstreams.by_model,
            {name: TextModel.load(paths.target) for name, paths in found.models.items()},
            accountant=self._accountant,
            spending=client,
            assess=by_tags if found.quality is None else load_assessor(found.quality).assess,
            routers=[operator_router(client, _operator)],
            events=EventLog(Path(config.events)) if config.events else None,
        )
        self._gateway = self._app.state.gateway
        await _first_policy(self._follower)
        listen = config.gateway.listen
        self._front = HttpFront(self._app, listen.host, listen.port) if listen else None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return OneRequestId(self._app)

    async def drain(self) -> None:
        """Refuse new requests with 503 and return when the last running one has ended."""
        self._gateway.drain()
        while self._gateway.running:
            await asyncio.sleep(DRAIN_POLL_S)

    async def __del__(self) -> None:
        """Serve calls this when its proxy has no open request here; those of the own port are let finish first."""
        if not hasattr(self, "_front"):
            return
        if self._front is not None:
            await self._front.close()
        await self._accountant.close()
        self._following.cancel()
        await self._upstreams.close()


def served_policy(documents: Documents, served: Collection[str]) -> Policy:
    """The policy of documents. Raises PolicyError where it does not load or says nothing of a model that is served."""
    from outrider.policy import parse_policies

    policy = parse_policies(documents[0], documents[1:]).accepted()
    if missing := sorted(set(served) - set(policy.models)):
        raise PolicyError(f"no entry under `models` for '{missing[0]}', which is served here")
    return policy


async def _first_policy(follower: Follower) -> None:
    """Wait for it. Raises NotReady when control does not say any."""
    deadline_s = time.monotonic() + FIRST_POLICY_S
    while True:
        try:
            follower.policy  # noqa: B018
            return
        except NotReady:
            if time.monotonic() > deadline_s:
                raise
        await asyncio.sleep(POLL_S)


def _operator(request: Request) -> str:
    name: str = request.app.state.gateway.authenticate_operator(request.headers.get("authorization"))
    return name


class OneRequestId:
    """Leaves `x-request-id` to the proxy of Serve, which gives the application the same id and adds it itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def unmarked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, unmarked)


def _facts(config: AppConfig) -> dict[str, str]:
    """What changes answers besides policy and load: the arithmetic and the weights' places."""
    models = {
        name: f"{model.directory} {model.target.dtype} on {model.target.device}"
        for name, model in config.models.items()
    }
    return {"torch": version("torch"), "transformers": version("transformers"), **models}
