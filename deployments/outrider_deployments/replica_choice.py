"""The router's choice of a replica, honoured: Serve sends a request where its decision says.

A handle cannot address a replica, so the wanted one rides along as an argument and this router of the target's
deployment reads it. Any other replica takes the request only if that one is gone.
"""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

__all__ = ["ROUTER", "ChosenReplicaRouter"]

ROUTER = "outrider_deployments.replica_choice:ChosenReplicaRouter"


class ChosenReplicaRouter(RequestRouter):  # type: ignore[misc]
    """Not first in, first out: that would hand a replica chosen for one request to whichever request waits longest."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The wanted replica alone while it lives, else all, the least busy as last heard first."""
        wanted = pending_request.kwargs.get("replica") if pending_request is not None else None
        chosen = [each for each in candidate_replicas if each.replica_id.unique_id == wanted]
        if chosen:
            return [chosen]
        return [sorted(candidate_replicas, key=self._queue)]

    def _queue(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0
