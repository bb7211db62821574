"""A platform's document and a team's that use every section, as plain values to be changed."""

from __future__ import annotations

import json
from typing import Any

from outrider.policy import Policy, PolicyReport, Source, hash_key, parse_policies

__all__ = ["compiled", "key", "platform", "report", "team"]


def key(name: str, **days: str) -> dict[str, Any]:
    """A key's entry; the key itself is its name."""
    return {"name": name.split("/")[-1], "sha256": hash_key(name), **days}


def platform() -> dict[str, Any]:
    """Two models, three tiers, a team that may use some of them, one tenant, two routes."""
    return {
        "version": 1,
        "operators": [key("ann")],
        "models": {
            "flash": {
                "price_usd_per_million": {"input": 1, "cached_input": 0.5, "output": 4},
                "quality": {"default": 0.5, "code": 0.8},
            },
            "pro": {"price_usd_per_million": {"input": 5, "output": 20}, "quality": {"default": 0.7, "code": 0.9}},
        },
        "batch_classes": {"quick": {"weight": 4}, "full": {"weight": 0.5, "admission_wait_ms": 20}},
        "tiers": {
            "fast": {"ttft_ms": 500, "tpot_ms": 30, "batch_class": "quick", "priority": 80},
            "standard": {"ttft_ms": 2000, "tpot_ms": 80, "batch_class": "quick", "also_batch_classes": ["full"]},
            "bulk": {"batch_class": "full", "max_depth": 3},
        },
        "teams": {
            "search": {
                "models": ["flash", "pro"],
                "tiers": ["standard", "bulk"],
                "max_tenants": 3,
                "max_depth": 5,
                "max_cost_usd_per_request": 2,
                "requests_per_minute": 600,
                "tokens_per_minute": 100_000,
                "concurrency": 20,
                "budgets": [{"usd": 100, "per": "day"}, {"usd": 1000, "per": "month", "time_zone": "Europe/Berlin"}],
            }
        },
        "tenants": {
            "acme": {
                "keys": [key("acme/ci", expires="2099-12-31")],
                "tier": "fast",
                "models": ["flash", "pro"],
                "budgets": [{"usd": 100, "per": "month"}],
            }
        },
        "routes": [
            {"name": "code", "match": {"tags": ["code"]}, "quality": 0.6},
            {"name": "long", "match": {"prompt_tokens": {"min": 1000}}, "max_depth": 3},
        ],
        "admission": {"max_waiting": 100},
        "cache": {"enabled": True},
        "routing": {"objective": "balanced"},
    }


def team() -> dict[str, Any]:
    """The file of team `search`: two tenants and a route."""
    return {
        "version": 1,
        "team": "search",
        "tenants": {
            "index": {"keys": [key("index/ci")], "tier": "bulk", "models": ["flash"], "concurrency": 4},
            "site": {"keys": [key("site/web")], "tier": "standard", "models": ["flash", "pro"], "max_depth": 4},
        },
        "routes": [{"name": "nightly", "match": {"workflows": ["nightly/*"]}, "objective": "cheapest"}],
    }


def report(first: dict[str, Any], *others: dict[str, Any], **options: Any) -> PolicyReport:
    """What reading the documents gives; they are named `platform`, then `team0`, `team1`…"""
    sources = [Source(f"team{index}", json.dumps(each)) for index, each in enumerate(others)]
    return parse_policies(Source("platform", json.dumps(first)), sources, **options)


def compiled(first: dict[str, Any], *others: dict[str, Any]) -> Policy:
    """The policy of documents that must be right."""
    found = report(first, *others)
    assert found.policy is not None, "\n".join(map(str, found.problems))
    return found.policy
