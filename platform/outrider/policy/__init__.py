"""What platform teams edit: schema, loading with line numbers, versions, routes, differences, keys."""

from outrider.documents import Problem
from outrider.policy.changes import Change
from outrider.policy.diff import diff, sentences
from outrider.policy.export import json_schema
from outrider.policy.keys import DEMO_KEY, DEMO_OPERATOR_KEY, KEY_PREFIX, hash_key, new_key
from outrider.policy.loading import PolicyReport, check_policy, load_policy, parse_policies, parse_policy
from outrider.policy.model import (
    Admission,
    Balance,
    Budget,
    Cache,
    Key,
    Limits,
    ModelPolicy,
    Policy,
    Route,
    Routing,
    Team,
    Tenant,
    Tier,
)
from outrider.policy.routes import EffectiveRoute, effective_route
from outrider.policy.schema import AUTO, Objective, PolicySpec
from outrider.policy.sources import Source, read_sources

__all__ = [
    "AUTO",
    "DEMO_KEY",
    "DEMO_OPERATOR_KEY",
    "KEY_PREFIX",
    "Admission",
    "Balance",
    "Budget",
    "Cache",
    "Change",
    "EffectiveRoute",
    "Key",
    "Limits",
    "ModelPolicy",
    "Objective",
    "Policy",
    "PolicyReport",
    "PolicySpec",
    "Problem",
    "Route",
    "Routing",
    "Source",
    "Team",
    "Tenant",
    "Tier",
    "check_policy",
    "diff",
    "effective_route",
    "hash_key",
    "json_schema",
    "load_policy",
    "new_key",
    "parse_policies",
    "parse_policy",
    "read_sources",
    "sentences",
]
