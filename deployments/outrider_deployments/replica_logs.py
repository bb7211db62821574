"""The platform's own log lines, in the file Serve keeps for each replica."""

from __future__ import annotations

import logging

__all__ = ["join_serve_logs"]

PACKAGES = ("outrider", "outrider_deployments")


def join_serve_logs() -> None:
    """Send what this process's platform code logs, from INFO up, where Serve logs. Call once per replica."""
    serve = logging.getLogger("ray.serve")
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in serve.handlers:
            logger.addHandler(handler)
