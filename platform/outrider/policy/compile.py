"""From the document people typed to the policy the platform reads."""

from __future__ import annotations

import hashlib
import json

from outrider.policy.model import Balance, ModelPolicy, Policy, Routing, Tenant, Tier
from outrider.policy.schema import BatchClassSpec, ModelSpec, PolicySpec, TenantSpec, TierSpec
from outrider.types import BatchClass

__all__ = ["compile_policy"]

_VERSION_DIGITS = 12


def compile_policy(spec: PolicySpec) -> Policy:
    """Resolve references and units. The document has passed its cross-checks: every name in it exists."""
    batch_classes = {name: _batch_class(name, each) for name, each in spec.batch_classes.items()}
    tiers = {name: _tier(name, each, batch_classes) for name, each in spec.tiers.items()}
    return Policy(
        version=_version(spec),
        models={name: _model(name, each) for name, each in spec.models.items()},
        batch_classes=batch_classes,
        tiers=tiers,
        tenants={name: _tenant(name, each, tiers[each.tier], spec) for name, each in spec.tenants.items()},
        routing=Routing(
            depth_caps=tuple(spec.routing.depth_caps),
            expected_output_tokens=spec.routing.expected_output_tokens,
            staleness_per_s=spec.routing.staleness_per_s,
            verification=spec.routing.verification,
            balance=Balance(**spec.routing.balance.model_dump()),
        ),
        key_owners={key.sha256: name for name, tenant in spec.tenants.items() for key in tenant.keys},
    )


def _version(spec: PolicySpec) -> str:
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_VERSION_DIGITS]


def _model(name: str, spec: ModelSpec) -> ModelPolicy:
    price = spec.price_usd_per_million
    return ModelPolicy(name, price.input / 1e6, price.output / 1e6, spec.quality)


def _batch_class(name: str, spec: BatchClassSpec) -> BatchClass:
    return BatchClass(
        name=name,
        weight=spec.weight,
        prefill_share=spec.prefill_share,
        co_batch_tokens=spec.co_batch_tokens,
        admission_wait_s=spec.admission_wait_ms / 1e3,
        preemption_order=spec.preemption_order,
    )


def _tier(name: str, spec: TierSpec, batch_classes: dict[str, BatchClass]) -> Tier:
    return Tier(
        name=name,
        ttft_s=None if spec.ttft_ms is None else spec.ttft_ms / 1e3,
        tpot_s=None if spec.tpot_ms is None else spec.tpot_ms / 1e3,
        batch_classes=tuple(batch_classes[each] for each in (spec.batch_class, *spec.also_batch_classes)),
        max_depth=spec.max_depth,
    )


def _tenant(name: str, spec: TenantSpec, tier: Tier, policy: PolicySpec) -> Tenant:
    return Tenant(
        name=name,
        tier=tier,
        models=tuple(spec.models),
        max_depth=tier.max_depth if spec.max_depth is None else min(spec.max_depth, tier.max_depth),
        max_cost_usd_per_request=spec.max_cost_usd_per_request,
        objective=spec.objective or policy.tiers[tier.name].objective or policy.routing.objective,
    )
