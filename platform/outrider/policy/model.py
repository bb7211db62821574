"""What the platform reads: a policy with references resolved and everything in seconds and dollars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from outrider.errors import InvalidKey
from outrider.policy.keys import DEMO_KEY, DEMO_OPERATOR_KEY, hash_key
from outrider.policy.schema import Objective, Period, Promise
from outrider.types import BatchClass, Verification

__all__ = [
    "Admission",
    "Balance",
    "Budget",
    "Cache",
    "CacheScope",
    "Key",
    "Limits",
    "ModelPolicy",
    "Policy",
    "Route",
    "Routing",
    "Team",
    "Tenant",
    "Tier",
]

CacheScope = Literal["off", "own", "shared"]

DEFAULT_DOMAIN = "default"


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """A model's list prices and measured quality by domain."""

    name: str
    input_usd_per_token: float
    cached_input_usd_per_token: float
    output_usd_per_token: float
    quality: Mapping[str, float]

    def quality_for(self, tags: Iterable[str]) -> float:
        """Score on the domain that the first tag with a measured score names, else on `default`."""
        for tag in tags:
            if tag in self.quality:
                return self.quality[tag]
        return self.quality[DEFAULT_DOMAIN]

    def cost_usd(self, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        """List price of a request of that size; `cached_tokens` of its prompt were found in the prefix cache."""
        fresh = prompt_tokens - cached_tokens
        prompt_usd = fresh * self.input_usd_per_token + cached_tokens * self.cached_input_usd_per_token
        return prompt_usd + output_tokens * self.output_usd_per_token


@dataclass(frozen=True, slots=True)
class Tier:
    """A service level. `batch_classes` begins with the one it prefers; targets are soft, None is none.

    priority: larger is served first and shed last. degrade: promises in the order they are given up.
    """

    name: str
    ttft_s: float | None
    tpot_s: float | None
    batch_classes: tuple[BatchClass, ...]
    max_depth: int
    deadline_s: float | None = None
    priority: int = 50
    min_depth: int = 0
    degrade: tuple[Promise, ...] = ("tpot", "ttft", "deadline")


@dataclass(frozen=True, slots=True)
class Budget:
    """Money that may be spent in each period of a time zone's calendar (IANA name)."""

    limit_usd: float
    period: Period
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant or a team may use; None is no limit. A tenant of a team stays within both."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    budgets: tuple[Budget, ...] = ()


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Team:
    """What the platform grants a team: its tenants share the limits, and each stays within the rest."""

    name: str
    limits: Limits = NO_LIMITS
    models: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    max_tenants: int | None = None
    max_depth: int | None = None
    max_cost_usd_per_request: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """How requests that match are routed; None leaves a setting as it was.

    layer: the file it stands in, `platform` or a team's name. tags, workflows: any of them, None is all; a workflow
    may end in `*`. max_prompt_tokens is included.
    """

    name: str
    layer: str = "platform"
    tags: frozenset[str] | None = None
    workflows: tuple[str, ...] | None = None
    min_prompt_tokens: int = 0
    max_prompt_tokens: int | None = None
    objective: Objective | None = None
    quality: float | None = None
    models: frozenset[str] | None = None
    max_depth: int | None = None

    def matches(self, prompt_tokens: int, tags: Iterable[str], workflow: str | None) -> bool:
        """Whether a request of one of the route's tenants takes it."""
        if prompt_tokens < self.min_prompt_tokens:
            return False
        if self.max_prompt_tokens is not None and prompt_tokens > self.max_prompt_tokens:
            return False
        if self.tags is not None and self.tags.isdisjoint(tags):
            return False
        return self.workflows is None or (
            workflow is not None
            and any(
                workflow.startswith(each[:-1]) if each.endswith("*") else workflow == each for each in self.workflows
            )
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who calls. `max_depth` and `objective` are the effective ones of tenant, tier and routing defaults.

    routes: by layer, platform before team, those that can match this tenant, in the order of their file; the first
    of each layer that matches counts. The platform's bounds, the team's chooses within it.
    """

    name: str
    tier: Tier
    models: tuple[str, ...]
    max_depth: int
    max_cost_usd_per_request: float | None
    objective: Objective
    team: str | None = None
    limits: Limits = NO_LIMITS
    cache: CacheScope = "own"
    routes: tuple[tuple[Route, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    """Whose a key is and when it is good. Times are seconds of the epoch; None is no bound."""

    owner: str
    name: str
    not_before_s: float | None = None
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """Exponents of the `balanced` objective."""

    latency: float
    cost: float
    quality: float


@dataclass(frozen=True, slots=True)
class Routing:
    """Defaults of the router. `staleness_per_s`: growth of predictions per second of a snapshot's age.

    verification: of sampled requests that came without a seed.
    """

    depth_caps: tuple[int, ...]
    expected_output_tokens: int
    staleness_per_s: float
    verification: Verification
    balance: Balance
    quantile: float = 0.9
    exploration: float = 0.0


@dataclass(frozen=True, slots=True)
class Admission:
    """Who is let in when not everybody fits; see AdmissionSpec."""

    max_waiting: int = 512
    max_wait_s: float = 30.0
    ageing_per_s: float = 2.0
    reserve_quantile: float = 0.9


@dataclass(frozen=True, slots=True)
class Cache:
    """Bounds of the response cache of one gateway; see CacheSpec."""

    enabled: bool = False
    ttl_s: float = 3600.0
    max_entries: int = 10_000
    max_bytes: int = 64 * 2**20
    price_share: float = 0.1


@dataclass(frozen=True, slots=True)
class Policy:
    """A loaded policy, immutable by convention: share it freely, replace it whole.

    version: 12 hex digits of the SHA-256 of its content; comments, order and layout do not count.
    """

    version: str
    models: Mapping[str, ModelPolicy]
    batch_classes: Mapping[str, BatchClass]
    tiers: Mapping[str, Tier]
    tenants: Mapping[str, Tenant]
    routing: Routing
    keys: Mapping[str, Key] = field(repr=False)
    """SHA-256 of each tenant's key → whose it is."""
    operators: Mapping[str, Key] = field(default_factory=dict, repr=False)
    """SHA-256 of each operator's key → their name."""
    teams: Mapping[str, Team] = field(default_factory=dict)
    admission: Admission = Admission()
    cache: Cache = Cache()

    def tenant_for_key(self, raw_key: str | None, now_s: float) -> Tenant:
        """The tenant that owns a key. Raises InvalidKey; the message never repeats what was sent.

        Looking up a hash in a dict leaks timing about the hash only, which tells nothing about a 256-bit key.
        """
        return self.tenants[_owner(self.keys, raw_key, now_s)]

    def operator_for_key(self, raw_key: str | None, now_s: float) -> str:
        """The operator that owns a key. Raises InvalidKey."""
        return _owner(self.operators, raw_key, now_s)

    @property
    def accepts_demo_key(self) -> bool:
        """True when anybody who read the documentation can call."""
        return hash_key(DEMO_KEY) in self.keys

    @property
    def accepts_demo_operator_key(self) -> bool:
        """True when anybody who read the documentation can change the policy."""
        return hash_key(DEMO_OPERATOR_KEY) in self.operators


def _owner(keys: Mapping[str, Key], raw_key: str | None, now_s: float) -> str:
    if not raw_key:
        raise InvalidKey("no API key was sent; use the header 'Authorization: Bearer sk-outrider-…'")
    key = keys.get(hash_key(raw_key))
    if key is None:
        raise InvalidKey("the API key is not known here")
    if key.expires_s is not None and now_s >= key.expires_s:
        raise InvalidKey(f"the API key {key.name!r} has expired; ask for a new one")
    if key.not_before_s is not None and now_s < key.not_before_s:
        raise InvalidKey(f"the API key {key.name!r} is not valid yet")
    return key.owner
