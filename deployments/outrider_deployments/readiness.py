"""When the platform is up: every deployment healthy, and the gateway itself says that models and drafters answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import httpx

from outrider.errors import ConfigurationError, DrafterMismatch, OutriderError, RuntimeFault
from outrider_deployments.config import AppConfig

__all__ = ["await_ready", "startup_failure"]

POLL_S = 0.5
LIMIT_S = 600.0
TYPED_ERROR = re.compile(r"^(?:ray\.exceptions\.RayTaskError\()?outrider\.errors\.(\w+)\)?: (.+)$", re.MULTILINE)
"""How a traceback in a deployment's status message ends when one of our errors stopped a constructor."""
FAILED_START = "failed to start"


def await_ready(
    application: str, url: str, config: AppConfig, *, report: Callable[[str], None], check: Callable[[], None]
) -> None:
    """Wait, telling `report` what is missing; `check` may raise to give up.

    Raises the error that keeps a deployment from starting, or RuntimeFault after `LIMIT_S`.
    """
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        check()
        missing = _unhealthy(application) or _not_answering(application, url, config)
        if not missing:
            return
        report(f"waiting for {', '.join(missing)}")
        time.sleep(POLL_S)
    raise RuntimeFault(f"not ready after {LIMIT_S:.0f} s; logs are under /tmp/ray/session_latest/logs/serve")


def startup_failure(message: str) -> OutriderError | None:
    """The typed error at the end of a deployment's failure message, if one of ours stopped it."""
    from outrider import errors

    if not (found := TYPED_ERROR.findall(message)):
        return None
    name, text = found[-1]
    kind = getattr(errors, name, ConfigurationError)
    return kind(text) if issubclass(kind, OutriderError) else None


def _unhealthy(application: str) -> list[str]:
    """Deployments that are not healthy yet; raises what stops one of them."""
    from ray import serve

    status = serve.status().applications.get(application)
    if status is None:
        return ["the application"]
    for name, deployment in status.deployments.items():
        if (error := startup_failure(deployment.message)) is not None:
            raise error
        if FAILED_START in deployment.message:  # Serve would try twice more, with the same files
            raise RuntimeFault(f"{name} does not start: {_last_line(deployment.message)}")
    if status.status == "DEPLOY_FAILED":
        raise startup_failure(status.message) or RuntimeFault(_last_line(status.message))
    if status.status == "RUNNING":
        return []
    return sorted(name for name, one in status.deployments.items() if one.status != "HEALTHY") or ["the application"]


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _not_answering(application: str, url: str, config: AppConfig) -> list[str]:
    """Models without a healthy target, and configured drafters that are not attached, as `/health` says."""
    try:
        answer = httpx.get(f"{url}/health", timeout=5.0)
        models: dict[str, Any] = answer.json()["models"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ["the gateway"]
    missing = []
    for name, model in config.models.items():
        state = models.get(name, {})
        if not state.get("ready"):
            missing.append(name)
        elif model.drafter is not None and not state.get("drafter_attached"):
            _raise_refusal(application, name)
            missing.append(f"{name}'s drafter")
    return missing


def _raise_refusal(application: str, model: str) -> None:
    """Raises DrafterMismatch when the target will never take its drafter."""
    from ray import serve

    target = serve.get_deployment_handle(f"target-{model}", application)
    if refusal := target.drafter_refusal.remote().result(timeout_s=10.0):
        raise DrafterMismatch(refusal)
