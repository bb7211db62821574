"""What people type: the policy document as a pydantic schema. Only here are times in ms."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from outrider.policy.keys import KEY_PREFIX
from outrider.types import Verification

__all__ = [
    "AUTO",
    "BalanceSpec",
    "BatchClassSpec",
    "KeySpec",
    "ModelSpec",
    "Objective",
    "PolicySpec",
    "PriceSpec",
    "RoutingSpec",
    "TenantSpec",
    "TierSpec",
]

Objective = Literal["cheapest", "fastest", "best_quality", "balanced"]

AUTO = "auto"
"""The model name by which a tenant leaves the choice to the router; no model of a policy may bear it."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        text = "a name is 1 to 64 of a-z, 0-9, '.', '_', '-' and begins with a letter or digit"
        raise PydanticCustomError("outrider", text)
    return name


def _check_sha256(value: str) -> str:
    """Never repeats the value: it may be a key."""
    if value.startswith(KEY_PREFIX):
        text = "this is a key, not its hash; drop it and paste what `outrider keys new` prints"
        raise PydanticCustomError("outrider", text)
    if not _SHA256.fullmatch(value):
        text = "a key's hash is 64 lower-case hex digits; `outrider keys new` prints one"
        raise PydanticCustomError("outrider", text)
    return value


Name = Annotated[str, AfterValidator(_check_name)]
Milliseconds = Annotated[float, Field(gt=0, le=86_400_000)]
Price = Annotated[float, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Depth = Annotated[int, Field(ge=0, le=64)]
Weight = Annotated[float, Field(ge=0, le=1_000)]


class _Spec(BaseModel):
    """Frozen and strict: no unknown fields, no text for numbers, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PriceSpec(_Spec):
    """List prices in US dollars per million tokens."""

    input: Price
    output: Price


class ModelSpec(_Spec):
    """What a model costs and how good it is; where it runs is the deployment's business."""

    price_usd_per_million: PriceSpec
    quality: dict[Name, Share] = Field(min_length=1)
    """Measured score in [0, 1] by domain; `default` answers for every domain not named."""


class BatchClassSpec(_Spec):
    """How a request shares the engine's rounds."""

    weight: Annotated[float, Field(gt=0, le=1_000)] = 1.0
    prefill_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    co_batch_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    admission_wait_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    preemption_order: Annotated[int, Field(ge=0, le=1_000)] = 0


class TierSpec(_Spec):
    """A service level: targets that rank (they never refuse a request), a depth bound, batch classes."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    batch_class: str
    also_batch_classes: list[str] = []
    max_depth: Depth = 7
    objective: Objective | None = None


class KeySpec(_Spec):
    """One key of a tenant, by its hash."""

    sha256: Annotated[str, AfterValidator(_check_sha256)]
    name: Annotated[str, Field(min_length=1, max_length=100)]


class TenantSpec(_Spec):
    """Who calls: keys, service level, granted models, limits."""

    keys: list[KeySpec]
    tier: str
    models: list[str] = Field(min_length=1)
    max_depth: Depth | None = None
    max_cost_usd_per_request: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    objective: Objective | None = None


class BalanceSpec(_Spec):
    """Exponents of the `balanced` objective: latency^a · cost^b ÷ quality^c, the smallest product wins."""

    latency: Weight = 1.0
    cost: Weight = 0.5
    quality: Weight = 2.0


class RoutingSpec(_Spec):
    """Defaults of the router."""

    objective: Objective = "balanced"
    depth_caps: list[Depth] = Field(default=[0, 1, 3, 5, 7], min_length=1, max_length=16)
    expected_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    staleness_per_s: Annotated[float, Field(ge=0, le=100)] = 0.25
    verification: Verification = "coupled"
    balance: BalanceSpec = BalanceSpec()


class PolicySpec(_Spec):
    """One policy document."""

    version: Literal[1]
    models: dict[Name, ModelSpec] = Field(min_length=1)
    batch_classes: dict[Name, BatchClassSpec] = Field(min_length=1)
    tiers: dict[Name, TierSpec] = Field(min_length=1)
    tenants: dict[Name, TenantSpec]
    routing: RoutingSpec = RoutingSpec()
