"""What the platform reads: a policy with references resolved and everything in seconds and dollars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from outrider.errors import InvalidKey
from outrider.policy.keys import DEMO_KEY, hash_key
from outrider.policy.schema import Objective
from outrider.types import BatchClass, Verification

__all__ = ["Balance", "ModelPolicy", "Policy", "Routing", "Tenant", "Tier"]

DEFAULT_DOMAIN = "default"


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """A model's list prices and measured quality by domain."""

    name: str
    input_usd_per_token: float
    output_usd_per_token: float
    quality: Mapping[str, float]

    def quality_for(self, tags: Iterable[str]) -> float:
        """Score on the domain that the first tag with a measured score names, else on `default`."""
        for tag in tags:
            if tag in self.quality:
                return self.quality[tag]
        return self.quality[DEFAULT_DOMAIN]

    def cost_usd(self, prompt_tokens: int, output_tokens: int) -> float:
        """List price of a request of that size."""
        return prompt_tokens * self.input_usd_per_token + output_tokens * self.output_usd_per_token


@dataclass(frozen=True, slots=True)
class Tier:
    """A service level. `batch_classes` begins with the one it prefers; targets are soft, None is none."""

    name: str
    ttft_s: float | None
    tpot_s: float | None
    batch_classes: tuple[BatchClass, ...]
    max_depth: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who calls. `max_depth` and `objective` are the effective ones of tenant, tier and routing defaults."""

    name: str
    tier: Tier
    models: tuple[str, ...]
    max_depth: int
    max_cost_usd_per_request: float | None
    objective: Objective


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
    key_owners: Mapping[str, str] = field(repr=False)
    """SHA-256 of each key → tenant name."""

    def tenant_for_key(self, raw_key: str | None) -> Tenant:
        """The tenant that owns a key. Raises InvalidKey; the message never repeats what was sent.

        Looking up a hash in a dict leaks timing about the hash only, which tells nothing about a 256-bit key.
        """
        if not raw_key:
            raise InvalidKey("no API key was sent; use the header 'Authorization: Bearer sk-outrider-…'")
        owner = self.key_owners.get(hash_key(raw_key))
        if owner is None:
            raise InvalidKey("the API key is not known here")
        return self.tenants[owner]

    @property
    def accepts_demo_key(self) -> bool:
        """True when anybody who read the documentation can call."""
        return hash_key(DEMO_KEY) in self.key_owners
