"""What people type: the policy document as a pydantic schema. Only here are times in ms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from outrider.policy.accounts import BudgetSpec, KeySpec, LimitsSpec, Spec, TeamSpec, TenantSpec
from outrider.policy.fields import (
    AUTO,
    Depth,
    Milliseconds,
    Name,
    Objective,
    Period,
    Price,
    Promise,
    Share,
    Weight,
)
from outrider.types import Verification

__all__ = [
    "AUTO",
    "AdmissionSpec",
    "BalanceSpec",
    "BatchClassSpec",
    "BudgetSpec",
    "CacheSpec",
    "KeySpec",
    "LimitsSpec",
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


class PriceSpec(Spec):
    """List prices in US dollars per million tokens."""

    input: Price
    """US dollars per million prompt tokens."""
    output: Price
    """US dollars per million output tokens."""
    cached_input: Price | None = None
    """US dollars per million prompt tokens found in the prefix cache; without it they cost as others do."""


class ModelSpec(Spec):
    """What a model costs and how good it is; where it runs is the deployment's business."""

    price_usd_per_million: PriceSpec = Field(examples=[{"input": 0.05, "output": 0.2}])
    """What requests cost, in US dollars per million tokens."""
    quality: dict[Name, Share] = Field(min_length=1, examples=[{"default": 0.6}])
    """Measured score in [0, 1] by domain; `default` answers for every domain not named."""


class BatchClassSpec(Spec):
    """How a request shares the engine's rounds."""

    weight: Annotated[float, Field(gt=0, le=1_000)] = 1.0
    """Worth of a token when rounds are contended; 1 is par."""
    prefill_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest part of a step that other requests' prompts may take while this one decodes."""
    co_batch_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Most tokens in one step that serves the request."""
    admission_wait_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    """How long a new request may wait for company, in milliseconds."""
    preemption_order: Annotated[int, Field(ge=0, le=1_000)] = 0
    """Who is set aside first when memory runs out: the larger number."""


class TierSpec(Spec):
    """A service level: targets that rank (they never refuse a request), depth bounds, batch classes."""

    ttft_ms: Milliseconds | None = None
    """Target: time to first token, in milliseconds."""
    tpot_ms: Milliseconds | None = None
    """Target: time per output token after the first, in milliseconds."""
    deadline_ms: Milliseconds | None = None
    """Target: whole answer, in milliseconds."""
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    """Larger is served first and shed last."""
    batch_class: str
    """The batch class it prefers, by its name in `batch_classes`."""
    also_batch_classes: list[str] = Field(default=[])
    """Others that the router may choose for it."""
    min_depth: Depth = 0
    """Least draft tokens per round that the router may choose; it yields to any max_depth."""
    max_depth: Depth = 7
    """Most draft tokens that a round may verify for one request; 0 turns speculation off."""
    degrade: list[Promise] = Field(default=["tpot", "ttft", "deadline"], max_length=4)
    """What is given up first when not everything can be kept; a promise not listed is never given up for another."""
    objective: Objective | None = None
    """What the router looks for; without it, routing.objective."""


class PromptTokensSpec(Spec):
    """Length of the prompt in tokens, both ends included."""

    min: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    """Shortest prompt that matches, in tokens."""
    max: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Longest prompt that matches, in tokens."""


class MatchSpec(Spec):
    """Every condition that is given must hold; none matches everything. `workflows` may end in `*`."""

    tenants: list[str] | None = Field(default=None, min_length=1)
    """Any of these tenants; in a team's file, of its own."""
    tags: list[str] | None = Field(default=None, min_length=1)
    """Any of these tags of the request."""
    workflows: list[str] | None = Field(default=None, min_length=1)
    """Any of these workflow ids; `nightly/*` is all that begin so."""
    prompt_tokens: PromptTokensSpec | None = Field(default=None, examples=[{"min": 1000}])
    """Length of the prompt."""


class RouteSpec(Spec):
    """How requests that match are routed. Of each file the first route that matches counts."""

    name: Name
    """What decisions and events call it; unique within a file."""
    match: MatchSpec = Field(default=MatchSpec(), examples=[{"tags": ["code"]}])
    """Which requests take it."""
    objective: Objective | None = None
    """What the router looks for."""
    quality: Share | None = None
    """Least quality of the model on the request's domain."""
    models: list[str] | None = Field(default=None, min_length=1, examples=[["pro"]])
    """The only models it may use, of those its tenant has."""
    max_depth: Depth | None = None
    """Most draft tokens that a round may verify."""


class CacheSpec(Spec):
    """Answers that are served again: only where nothing random is in them (temperature 0 or a seed)."""

    enabled: bool = False
    """Whether answers are kept at all."""
    ttl_s: Annotated[float, Field(gt=0, le=31_536_000)] = 3600.0
    """How long an answer is kept, in seconds."""
    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Most answers that one gateway keeps."""
    max_bytes: Annotated[int, Field(ge=1024, le=1 << 40)] = 64 * 2**20
    """Most bytes that one gateway's answers take."""
    price_share: Share = 0.1
    """What a hit costs, as a share of the list price of the answer."""


class AdmissionSpec(Spec):
    """Who is let in when not everybody fits."""

    max_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 512
    """Most requests that wait in one gateway; beyond it the least important is shed."""
    max_wait_ms: Milliseconds = 30_000
    """How long a request may wait in line, in milliseconds."""
    ageing_per_s: Annotated[float, Field(ge=0, le=1_000)] = 2.0
    """Priority that a waiting request gains per second, so that nobody waits for ever."""
    reserve_quantile: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    """Quantile of the predicted cost that is set aside before a request runs."""


class BalanceSpec(Spec):
    """Exponents of the `balanced` objective: latency^a · cost^b ÷ quality^c, the smallest product wins."""

    latency: Weight = 1.0
    """Exponent of the answer's time."""
    cost: Weight = 0.5
    """Exponent of its price."""
    quality: Weight = 2.0
    """Exponent of the model's quality."""


class RoutingSpec(Spec):
    """Defaults of the router."""

    objective: Objective = "balanced"
    """Of tenants and tiers that name none."""
    depth_caps: list[Depth] = Field(default=[0, 1, 3, 5, 7], min_length=1, max_length=16, examples=[[0, 1, 3, 5, 7]])
    """Depths to consider, ascending; 0 must be among them."""
    expected_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """How long an answer is taken to be when nothing is known of its kind."""
    staleness_per_s: Annotated[float, Field(ge=0, le=100)] = 0.25
    """Predictions grow by this share per second of age of a replica's load report."""
    verification: Verification = "coupled"
    """Rule for sampled requests without a seed of their own."""
    balance: BalanceSpec = BalanceSpec()
    """Exponents of the `balanced` objective."""
    quantile: Annotated[float, Field(ge=0.5, le=0.99)] = 0.9
    """Which quantile of predicted times must keep limits and targets."""
    exploration: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    """Share of requests sent to a random one of the candidates that keep everything."""


class PolicySpec(Spec):
    """The platform's document of an Outrider policy."""

    version: Literal[1]
    """Of this format; always 1."""
    operators: list[KeySpec] = Field(default=[])
    """Who may apply policies and see everybody's spend, by the hash of their keys."""
    models: dict[Name, ModelSpec] = Field(min_length=1)
    """Prices and quality by the model's name in the deployment's configuration."""
    batch_classes: dict[Name, BatchClassSpec] = Field(min_length=1)
    """Ways in which requests share the engine's rounds."""
    tiers: dict[Name, TierSpec] = Field(min_length=1)
    """Service levels."""
    teams: dict[Name, TeamSpec] = Field(default={})
    """What teams with a file of their own are granted."""
    tenants: dict[Name, TenantSpec]
    """Who calls; {} where all tenants are in teams' files."""
    routes: list[RouteSpec] = Field(default=[])
    """How requests of all tenants, teams' included, are routed. The first that matches counts."""
    admission: AdmissionSpec = AdmissionSpec()
    """Who is let in when not everybody fits."""
    cache: CacheSpec = CacheSpec()
    """The response cache."""
    routing: RoutingSpec = RoutingSpec()
    """Defaults of the router."""


class TeamFileSpec(Spec):
    """A team's document of an Outrider policy: its tenants and routes, within what the platform grants the team."""

    version: Literal[1]
    """Of this format; always 1."""
    team: Name
    """The team's name in `teams` of the platform's document."""
    tenants: dict[Name, TenantSpec]
    """Who calls for the team."""
    routes: list[RouteSpec] = Field(default=[])
    """How their requests are routed, within the platform's routes. The first that matches counts."""
