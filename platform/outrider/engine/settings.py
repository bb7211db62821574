"""What an operator sets of one engine."""

from __future__ import annotations

from dataclasses import dataclass

from outrider.errors import ConfigurationError
from outrider.scheduling import scheduler_named

__all__ = ["EngineSettings"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes and limits of one target replica.

    kv_blocks · block_size is the number of token positions held at once; max_step_tokens caps one step's flat batch;
    draft_timeout_s is how long a round waits for its block before the drafter is given up; prefix_cache lets requests
    take over what earlier ones computed of the same beginning; calibration_share is the share of a request's drafted
    rounds that verify the whole block, so that it stays known what confidences are worth; scheduler is a name that
    `scheduler_named` reads; tenant_draft_tokens caps the draft tokens that one tenant may have verified in a round.
    device_rounds says whether rounds stay on the target's device until their tokens are known; None: on a GPU.
    """

    model: str
    replica: str = "local"
    kv_blocks: int = 4096
    block_size: int = 8
    max_running_requests: int = 64
    max_queued_requests: int = 256
    max_step_tokens: int = 512
    draft_timeout_s: float = 1.0
    prefix_cache: bool = True
    calibration_share: float = 0.01
    scheduler: str = "constrained"
    tenant_draft_tokens: int | None = None
    device_rounds: bool | None = None

    def __post_init__(self) -> None:
        for name in ("kv_blocks", "block_size", "max_running_requests", "max_queued_requests", "max_step_tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(
                    f"engine setting {name} must be 1 or more, not {getattr(self, name)}", param=name
                )
        scheduler_named(self.scheduler)
        if self.tenant_draft_tokens is not None and self.tenant_draft_tokens < 0:
            raise ConfigurationError(
                "engine setting tenant_draft_tokens must be 0 or more", param="tenant_draft_tokens"
            )
        if self.draft_timeout_s <= 0:
            raise ConfigurationError("engine setting draft_timeout_s must be positive", param="draft_timeout_s")
        if not 0 <= self.calibration_share <= 1:
            raise ConfigurationError(
                f"engine setting calibration_share must be in [0, 1], not {self.calibration_share}",
                param="calibration_share",
            )
