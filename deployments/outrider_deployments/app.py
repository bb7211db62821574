"""The Serve application: `gateway`, `control`, and for every configured model `target-NAME` and `draft-NAME`.

    serve run deployments/outrider_deployments/configs/local.yaml

A target finds its drafter through a Serve handle and talks to it over ZeroMQ; a gateway gets its tokens the same way.
No step and no token makes a Ray call.
"""

# No `from __future__ import annotations` here: Serve validates a config file's args into the class that `build` is
# annotated with, and does not resolve an annotation that is a string.
import logging
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from outrider_deployments.config import AppConfig, ModelConfig, RoleConfig
from outrider_deployments.control import Control
from outrider_deployments.draft import DraftReplica
from outrider_deployments.gateway import Gateway
from outrider_deployments.preflight import ModelPaths, Preflight, check
from outrider_deployments.replica_choice import ROUTER
from outrider_deployments.target import TargetReplica

__all__ = ["build"]

logger = logging.getLogger(__name__)

HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 30.0
CONTROL_CALLS = 64
"""Handle calls beside the open requests of a replica: attachments, addresses."""
CONTROL_REQUESTS = 4096
"""Of all gateways: each keeps two open and has a few under way."""


def build(config: AppConfig) -> serve.Application:
    """The application of a configuration; raises ConfigurationError, before any actor starts, if it cannot run."""
    found = check(config)
    targets = {name: _target(name, config, found) for name in config.models}
    control = _deployment(
        Control, "control", config, {"num_cpus": config.control.num_cpus}, max_ongoing_requests=CONTROL_REQUESTS
    ).bind(config, found)
    return _deployment(
        Gateway,
        "gateway",
        config,
        {"num_cpus": config.gateway.num_cpus},
        num_replicas=config.gateway.replicas,
        max_ongoing_requests=config.gateway.max_ongoing_requests,
    ).bind(config, found, control, targets)


def _target(name: str, config: AppConfig, found: Preflight) -> serve.Application:
    model, paths = config.models[name], found.models[name]
    draft = _draft(name, config, model, paths)
    if paths.drafter is None:
        logger.warning("model %s runs without a drafter: every round is plain decoding", name)
    return _deployment(
        TargetReplica,
        f"target-{name}",
        config,
        _role_options(model.target),
        num_replicas=model.replicas,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        max_ongoing_requests=model.max_running_requests + model.max_queued_requests + CONTROL_CALLS,
    ).bind(name, model, paths, config.timeouts, draft, config.sockets)


def _draft(name: str, config: AppConfig, model: ModelConfig, paths: ModelPaths) -> serve.Application | None:
    if paths.drafter is None or model.link == "in-process":
        return None
    return _deployment(
        DraftReplica,
        f"draft-{name}",
        config,
        _role_options(model.draft),
        num_replicas=model.replicas,
        max_ongoing_requests=CONTROL_CALLS,
    ).bind(f"{name}-drafter", paths.drafter, model.draft, config.sockets)


def _role_options(role: RoleConfig) -> dict[str, Any]:
    """An actor's share of the machine. Waiting OpenMP threads sleep: spinning, they take the neighbour's core."""
    environment = {
        "OMP_NUM_THREADS": str(role.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "HF_HUB_OFFLINE": "1",
    }
    return {"num_cpus": role.num_cpus, "num_gpus": role.num_gpus, "runtime_env": {"env_vars": environment}}


def _deployment(kind: type, name: str, config: AppConfig, actor: dict[str, Any], **options: Any) -> serve.Deployment:
    return serve.deployment(kind).options(
        name=name,
        ray_actor_options=actor,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=config.timeouts.drain_s,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=LoggingConfig(enable_access_log=False),
        **options,
    )
