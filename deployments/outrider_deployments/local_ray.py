"""A Ray of one's own on this machine: started beside whatever else runs, stopped with everything it started."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import socket
from pathlib import Path

from outrider.errors import ConfigurationError, PortInUse
from outrider_deployments.sockets import sweep

__all__ = ["check_port", "other_cluster", "refuse_foreign_cluster", "start", "stop"]

OBJECT_STORE_BYTES = 200_000_000
CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` notes the address of the cluster it started."""


def check_port(host: str, port: int) -> None:
    """Raises PortInUse, or ConfigurationError for an address this machine does not have."""
    if not 0 < port < 65536:
        raise ConfigurationError(f"port {port} is not a port", param="port")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} on {host} is taken: stop what listens there, or choose PORT=…") from error
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}", param="host") from error


def refuse_foreign_cluster() -> None:
    """Raises ConfigurationError when the environment points at a cluster, which would be joined by accident."""
    if address := os.environ.get("RAY_ADDRESS"):
        raise ConfigurationError(
            f"RAY_ADDRESS is set to {address}. This command runs a Ray of its own: unset RAY_ADDRESS, or deploy to "
            "that cluster with `serve run CONFIG.yaml`"
        )


def other_cluster() -> str | None:
    """The address of a cluster that `ray start` runs on this machine, if it still answers."""
    try:
        address = CURRENT_CLUSTER.read_text("utf-8").strip()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=0.5):
            return address
    except (OSError, ValueError):
        return None


def start() -> None:
    """A new local Ray: no dashboard, a small object store, quiet."""
    import ray
    import ray.serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        namespace="serve",
    )


def stop(application: str) -> None:
    """End the application, then Ray, and wait for the processes; does nothing when Ray was not started.

    Not `serve.shutdown`: its call to the controller races the controller's own end and may then wait half a minute.
    """
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    if not ray.is_initialized():
        return
    # While its actors end, Ray prints on standard output what each lost call was waiting for.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(RayServeException, TimeoutError):
            serve.delete(application)
        ray.shutdown()
    sweep()
