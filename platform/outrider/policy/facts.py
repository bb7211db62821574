"""What a policy says of each of its parts, one comparable fact at a time: the ground that `diff` stands on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from outrider.policy.model import Admission, Cache, Key, Limits, ModelPolicy, Route, Routing, Team, Tenant, Tier
from outrider.types import BatchClass

__all__ = [
    "Fact",
    "Severity",
    "Value",
    "admission_facts",
    "batch_class_facts",
    "cache_facts",
    "count",
    "described_route",
    "key_fact",
    "model_facts",
    "routing_facts",
    "team_facts",
    "tenant_facts",
    "tier_facts",
]

Severity = Literal["loosens", "tightens", "neutral"]
"""Of a change: whether those it is about may do more, or are promised less exactly; the opposite; or neither."""

Value = float | str | bool | None

_DAY_S = 86_400.0
_OPPOSITE: dict[Severity, Severity] = {"loosens": "tightens", "tightens": "loosens", "neutral": "neutral"}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a policy says.

    what: the name for machines, with its unit. label: for people. value: None where there is no bound or no such thing.
    more: what a larger value does, no bound being the largest. holds: the value is True, and the fact is had or not.
    detail: of another fact, whose coming and going says enough.
    """

    what: str
    label: str
    value: Value
    shown: str
    more: Severity = "neutral"
    holds: bool = False
    percent: bool = False
    detail: bool = False

    def severity(self, after: Value) -> Severity:
        """What it does when the value becomes `after`."""
        if self.more == "neutral" or isinstance(self.value, str) or isinstance(after, str):
            return "neutral"
        if self.holds:
            return self.more if after else _OPPOSITE[self.more]
        before, then = (float("inf") if value is None else value for value in (self.value, after))
        return self.more if then > before else _OPPOSITE[self.more]


def count(value: float) -> str:
    """A number as people write it, exact to twelve digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.12g}"


def _ms(what: str, label: str, value_s: float | None) -> Fact:
    shown = "none" if value_s is None else f"{count(value_s * 1e3)} ms"
    return Fact(what, label, value_s, shown, "loosens")


def _limit(what: str, label: str, value: float | None, unit: str = "") -> Fact:
    shown = "no limit" if value is None else f"{count(value)}{unit}"
    return Fact(what, label, value, shown, "loosens")


def _usd(what: str, label: str, value: float | None, more: Severity = "loosens", percent: bool = False) -> Fact:
    return Fact(what, label, value, "no limit" if value is None else f"${count(value)}", more, percent=percent)


def _word(what: str, label: str, value: str | None) -> Fact:
    return Fact(what, label, value, value or "none")


def _plain(what: str, label: str, value: float | bool, unit: str = "") -> Fact:
    shown = ("on" if value else "off") if isinstance(value, bool) else f"{count(value)}{unit}"
    return Fact(what, label, value, shown)


def _had(what: str, label: str) -> Fact:
    return Fact(what, label, True, "granted", "loosens", holds=True)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def model_facts(model: ModelPolicy) -> list[Fact]:
    """List prices and quality."""
    prices = [
        ("input", model.input_usd_per_token),
        ("cached_input", model.cached_input_usd_per_token),
        ("output", model.output_usd_per_token),
    ]
    return [
        *(
            _usd(
                f"{name}_usd_per_million",
                f"price of a million {name.replace('_', ' ')} tokens",
                usd * 1e6,
                "tightens",
                True,
            )
            for name, usd in prices
        ),
        *(_plain(f"quality.{domain}", f"quality on {domain}", score) for domain, score in model.quality.items()),
    ]


def batch_class_facts(batch_class: BatchClass) -> list[Fact]:
    """How a class shares the engine's rounds."""
    return [
        _plain("weight", "weight", batch_class.weight),
        _plain("prefill_share", "prefill share", batch_class.prefill_share),
        _plain("co_batch_tokens", "cap of co-batched tokens", batch_class.co_batch_tokens),
        _plain("admission_wait_ms", "admission wait", batch_class.admission_wait_s * 1e3, " ms"),
        _plain("preemption_order", "preemption order", batch_class.preemption_order),
    ]


def tier_facts(tier: Tier) -> list[Fact]:
    """What a tier promises and allows."""
    return [
        _ms("ttft_s", "TTFT target", tier.ttft_s),
        _ms("tpot_s", "TPOT target", tier.tpot_s),
        _ms("deadline_s", "deadline target", tier.deadline_s),
        Fact("priority", "priority", tier.priority, str(tier.priority), "loosens"),
        _word("batch_classes", "batch class", _listed(each.name for each in tier.batch_classes)),
        _plain("min_depth", "least depth", tier.min_depth),
        _limit("max_depth", "depth bound", tier.max_depth),
        _word("degrade", "order of giving up", _listed(tier.degrade)),
    ]


def tenant_facts(tenant: Tenant) -> list[Fact]:
    """What holds for a tenant in effect, its tier's promises included."""
    of_tier = [fact for fact in tier_facts(tenant.tier) if fact.what != "max_depth"]
    return [
        *(_had(f"models.{name}", f"model {name}") for name in tenant.models),
        _word("team", "team", tenant.team),
        _word("tier", "tier", tenant.tier.name),
        *of_tier,
        _limit("max_depth", "depth bound", tenant.max_depth),
        _usd("max_cost_usd_per_request", "money bound of a request", tenant.max_cost_usd_per_request),
        _word("objective", "objective", tenant.objective),
        *_limit_facts(tenant.limits),
        _word("cache", "response cache", tenant.cache),
    ]


def _limit_facts(limits: Limits) -> list[Fact]:
    budgets = {budget.period: budget for budget in limits.budgets}
    return [
        _limit("requests_per_minute", "request rate", limits.requests_per_minute, " per minute"),
        _limit("tokens_per_minute", "token rate", limits.tokens_per_minute, " per minute"),
        _limit("concurrency", "concurrency", limits.concurrency),
        *(_usd(f"budgets.{period}", f"budget per {period}", each.limit_usd) for period, each in budgets.items()),
        *(
            Fact(
                f"budgets.{period}.time_zone",
                f"time zone of the budget per {period}",
                each.time_zone,
                each.time_zone,
                detail=True,
            )
            for period, each in budgets.items()
        ),
    ]


def team_facts(team: Team) -> list[Fact]:
    """What a team is granted."""
    return [
        *(_had(f"models.{name}", f"model {name}") for name in team.models),
        *(_had(f"tiers.{name}", f"tier {name}") for name in team.tiers),
        _limit("max_tenants", "number of tenants", team.max_tenants),
        _limit("max_depth", "depth bound", team.max_depth),
        _usd("max_cost_usd_per_request", "money bound of a request", team.max_cost_usd_per_request),
        *_limit_facts(team.limits),
    ]


def routing_facts(routing: Routing) -> list[Fact]:
    """Defaults of the router."""
    return [
        _word("depth_caps", "depths considered", _listed(map(str, routing.depth_caps))),
        _plain("expected_output_tokens", "expected output", routing.expected_output_tokens, " tokens"),
        _plain("staleness_per_s", "growth of predictions per second of age", routing.staleness_per_s),
        _word("verification", "verification", routing.verification),
        _plain("balance.latency", "weight of latency in balanced", routing.balance.latency),
        _plain("balance.cost", "weight of cost in balanced", routing.balance.cost),
        _plain("balance.quality", "weight of quality in balanced", routing.balance.quality),
        _plain("quantile", "quantile that must keep limits", routing.quantile),
        _plain("exploration", "share of exploration", routing.exploration),
    ]


def admission_facts(admission: Admission) -> list[Fact]:
    """Who is let in when not everybody fits."""
    return [
        _plain("max_waiting", "length of the waiting line", admission.max_waiting),
        _plain("max_wait_ms", "longest wait", admission.max_wait_s * 1e3, " ms"),
        _plain("ageing_per_s", "priority gained per second of waiting", admission.ageing_per_s),
        _plain("reserve_quantile", "quantile of cost set aside", admission.reserve_quantile),
    ]


def cache_facts(cache: Cache) -> list[Fact]:
    """The response cache."""
    return [
        _plain("enabled", "response cache", cache.enabled),
        _plain("ttl_s", "life of an answer", cache.ttl_s, " s"),
        _plain("max_entries", "most answers", cache.max_entries),
        _plain("max_bytes", "most bytes", cache.max_bytes),
        Fact("price_share", "price of a hit", cache.price_share, f"{count(cache.price_share)} of the list price"),
    ]


def key_fact(key: Key) -> Fact:
    """When a key is good; its hash is not told."""
    begins = "" if key.not_before_s is None else f"begins {_day(key.not_before_s)} and "
    ends = "never expires" if key.expires_s is None else f"expires {_day(key.expires_s - _DAY_S)}"
    return Fact(f"keys.{key.name}", f"key {key.name}", begins + ends, begins + ends)


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).date().isoformat()


def described_route(route: Route) -> tuple[str, str]:
    """Which requests a route is for, and what it says of them."""
    which = []
    if route.tags is not None:
        which.append(f"tagged {' or '.join(sorted(route.tags))}")
    if route.workflows is not None:
        which.append(f"of workflow {' or '.join(route.workflows)}")
    if route.min_prompt_tokens:
        which.append(f"of {count(route.min_prompt_tokens)} prompt tokens or more")
    if route.max_prompt_tokens is not None:
        which.append(f"of {count(route.max_prompt_tokens)} prompt tokens or less")
    says: list[str] = []
    if route.objective is not None:
        says.append(route.objective)
    if route.quality is not None:
        says.append(f"quality {count(route.quality)} at least")
    if route.models is not None:
        says.append(f"only by {_listed(sorted(route.models))}")
    if route.max_depth is not None:
        says.append(f"depth {route.max_depth} at most")
    return " ".join(which), ", ".join(says) or "as their tenants' settings say"
