"""The draft deployment: one DSpark drafter in its own process, spoken to over ZeroMQ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from outrider_deployments.replica_logs import join_serve_logs
from outrider_deployments.sockets import PrivateEndpoint, Reach

if TYPE_CHECKING:
    from outrider_deployments.config import RoleConfig
    from outrider_deployments.supervisor import DrafterAddress

__all__ = ["DraftReplica"]


class DraftReplica:
    """Loads a drafter and answers rounds on a socket of its own; Serve only places it and hands out the address."""

    def __init__(
        self, name: str, directory: Path, role: RoleConfig, sockets: Literal["host", "cluster"] = "host"
    ) -> None:
        join_serve_logs()
        # Torch is imported here, not by the driver that only names this class.
        import torch

        from outrider.drafter.dspark import DSparkProposer
        from outrider.drafter.model import DSparkModel
        from outrider.drafter.server import DraftServer
        from outrider.link import ZmqDraftService

        torch.set_num_threads(role.threads)
        model = DSparkModel.load(directory, dtype=getattr(torch, role.dtype)).to(role.device)
        server = DraftServer(DSparkProposer(model, compiled=role.compile == "background"), name)
        self._epoch = server.welcome.epoch
        reach = Reach.of(sockets)
        self._private = None if reach else PrivateEndpoint("draft")
        endpoint = self._private.address if self._private else ""
        if reach is not None:
            endpoint = reach.address
        self._service = ZmqDraftService(server, endpoint, keys=reach.keys if reach else None)
        self._service.start()

    async def endpoint(self) -> DrafterAddress:
        """Where targets connect. A handle call now and then; never in the decode loop."""
        from outrider_deployments.supervisor import DrafterAddress

        return DrafterAddress(self._service.endpoint, self._epoch)

    def check_health(self) -> None:
        """Serve's health check: raises once the service thread is gone, and Serve starts another replica."""
        if not self._service.alive:
            raise RuntimeError("the draft service thread ended")

    def __del__(self) -> None:
        if hasattr(self, "_service"):
            self._service.stop()
            if self._private is not None:
                self._private.close()
