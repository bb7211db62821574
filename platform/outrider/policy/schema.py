"""What people type: the policy document as a pydantic schema. Only here are times in ms."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from outrider.policy.keys import KEY_PREFIX
from outrider.types import Verification

__all__ = [
    "AUTO",
    "AdmissionSpec",
    "BalanceSpec",
    "BatchClassSpec",
    "BudgetSpec",
    "CacheSpec",
    "KeySpec",
    "MatchSpec",
    "ModelSpec",
    "Objective",
    "Period",
    "PolicySpec",
    "PriceSpec",
    "Promise",
    "PromptTokensSpec",
    "RouteSpec",
    "RoutingSpec",
    "TeamFileSpec",
    "TeamSpec",
    "TenantSpec",
    "TierSpec",
]

Objective = Literal["cheapest", "fastest", "best_quality", "balanced"]

Promise = Literal["quality", "ttft", "tpot", "deadline"]
"""What a tier promises and may give up when not everything can be kept."""

Period = Literal["hour", "day", "week", "month"]
"""How long a money budget lasts: from the full hour, midnight, Monday or the first on, in its time zone."""

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
Usd = Annotated[float, Field(gt=0, le=1_000_000_000)]
Day = Annotated[date, Field(strict=False)]


class _Spec(BaseModel):
    """Frozen and strict: no unknown fields, no text for numbers, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PriceSpec(_Spec):
    """List prices in US dollars per million tokens. Without `cached_input`, cached prompt tokens cost as others."""

    input: Price
    output: Price
    cached_input: Price | None = None


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
    """A service level: targets that rank (they never refuse a request), depth bounds, batch classes."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    deadline_ms: Milliseconds | None = None
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    """Larger is served first and shed last."""
    batch_class: str
    also_batch_classes: list[str] = []
    min_depth: Depth = 0
    max_depth: Depth = 7
    degrade: list[Promise] = Field(default=["tpot", "ttft", "deadline"], max_length=4)
    """What is given up first when not everything can be kept; a promise not listed is never given up for another."""
    objective: Objective | None = None


class KeySpec(_Spec):
    """One key of a tenant or operator, by its hash. A key with `expires` is good through that day (UTC)."""

    sha256: Annotated[str, AfterValidator(_check_sha256)]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    not_before: Day | None = None
    expires: Day | None = None


class BudgetSpec(_Spec):
    """Money that may be spent in each period of a time zone's calendar."""

    usd: Usd
    per: Period
    time_zone: str = "UTC"


class _Limits(_Spec):
    """What may be used at once, per minute and per period; None is no limit."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    budgets: list[BudgetSpec] = Field(default=[], max_length=8)


class TeamSpec(_Limits):
    """What the platform grants a team: its file's tenants use these tiers and models, and share these limits."""

    models: list[str] = Field(min_length=1)
    tiers: list[str] = Field(min_length=1)
    max_tenants: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_depth: Depth | None = None
    max_cost_usd_per_request: Usd | None = None


class TenantSpec(_Limits):
    """Who calls: keys, service level, granted models, limits."""

    keys: list[KeySpec]
    tier: str
    models: list[str] = Field(min_length=1)
    max_depth: Depth | None = None
    max_cost_usd_per_request: Usd | None = None
    objective: Objective | None = None
    cache: Literal["off", "own", "shared"] = "own"
    """Whose cached answers it may get and leave: nobody's, its own, or those of all tenants that share."""


class PromptTokensSpec(_Spec):
    """Both ends included."""

    min: Annotated[int, Field(ge=0)] = 0
    max: Annotated[int, Field(ge=1)] | None = None


class MatchSpec(_Spec):
    """Every condition that is given must hold; none matches everything. `workflows` may end in `*`."""

    tenants: list[str] | None = None
    tags: list[str] | None = None
    workflows: list[str] | None = None
    prompt_tokens: PromptTokensSpec | None = None


class RouteSpec(_Spec):
    """How requests that match are routed. Of each file the first route that matches counts."""

    name: Name
    match: MatchSpec = MatchSpec()
    objective: Objective | None = None
    quality: Share | None = None
    """Least quality of the model on the request's domain."""
    models: list[str] | None = Field(default=None, min_length=1)
    max_depth: Depth | None = None


class CacheSpec(_Spec):
    """Answers that are served again: only where nothing random is in them (temperature 0 or a seed)."""

    enabled: bool = False
    ttl_s: Annotated[float, Field(gt=0, le=31_536_000)] = 3600.0
    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    max_bytes: Annotated[int, Field(ge=1024, le=1 << 40)] = 64 * 2**20
    price_share: Share = 0.1
    """What a hit costs, as a share of the list price of the answer."""


class AdmissionSpec(_Spec):
    """Who is let in when not everybody fits."""

    max_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 512
    """Most requests that wait in one gateway; beyond it the least important is shed."""
    max_wait_ms: Milliseconds = 30_000
    ageing_per_s: Annotated[float, Field(ge=0, le=1_000)] = 2.0
    """Priority that a waiting request gains per second, so that nobody waits for ever."""
    reserve_quantile: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    """Quantile of the predicted cost that is set aside before a request runs."""


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
    quantile: Annotated[float, Field(ge=0.5, le=0.99)] = 0.9
    """Which quantile of predicted times must keep limits and targets."""
    exploration: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    """Share of requests sent to a random one of the candidates that keep everything."""


class PolicySpec(_Spec):
    """The platform's document."""

    version: Literal[1]
    operators: list[KeySpec] = []
    models: dict[Name, ModelSpec] = Field(min_length=1)
    batch_classes: dict[Name, BatchClassSpec] = Field(min_length=1)
    tiers: dict[Name, TierSpec] = Field(min_length=1)
    teams: dict[Name, TeamSpec] = {}
    tenants: dict[Name, TenantSpec]
    routes: list[RouteSpec] = []
    admission: AdmissionSpec = AdmissionSpec()
    cache: CacheSpec = CacheSpec()
    routing: RoutingSpec = RoutingSpec()


class TeamFileSpec(_Spec):
    """A team's document: its tenants and routes, within what the platform's document grants the team."""

    version: Literal[1]
    team: Name
    tenants: dict[Name, TenantSpec]
    routes: list[RouteSpec] = []
