"""A model's cost profile from a file, refused unless it was measured of what is about to be served, here."""

from __future__ import annotations

from pathlib import Path

from outrider.scheduling import CostModel, CostSubject, read_costs
from outrider_deployments.config import ModelConfig

__all__ = ["fresh_costs"]


def fresh_costs(path: Path, model: ModelConfig, subject: CostSubject) -> CostModel:
    """The costs in `path`. Raises CurveError naming what differs from `subject` and the command that measures anew."""
    costs = read_costs(path)
    costs.check_subject(subject, source=path.name, renew=_renewing(path, model))
    return costs


def _renewing(path: Path, model: ModelConfig) -> str:
    drafter = "" if model.drafter is None else f" --drafter {model.drafter} --link process"
    role = model.target
    place = f"--requests {model.max_running_requests} --threads {role.threads} --dtype {role.dtype}"
    return f"outrider profile {model.directory}{drafter} {place} --device {role.device} --out {path}"
