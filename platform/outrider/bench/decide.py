"""Time of one routing decision over many replicas. No model is involved."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

import numpy as np

from outrider.bench.report import Report, Table
from outrider.policy import Policy, parse_policy
from outrider.routing import RouteQuery, decide
from outrider.types import LoadSnapshot

__all__ = ["measure_decide"]

_TRIES = 5
_NOW_S = 100.0
_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256)


def measure_decide(
    *, models: int, replicas: int, depths: int, classes: int, states: int, say: Callable[[str], None]
) -> Report:
    """Median, 99th percentile and maximum over random loads of every replica, each with a curve of its own."""
    policy, rng = _policy(models, depths, classes), np.random.default_rng(0)
    tenant = policy.tenants["acme"]
    took_s = np.empty((states, _TRIES))
    for place in range(states):
        if place % 100 == 0:
            say(f"load {place + 1} of {states}")
        loads = {name: [_load(rng, name, at) for at in range(replicas)] for name in policy.models}
        query = RouteQuery(tenant, "auto", dict.fromkeys(policy.models, 200), 200, exploration_seed=place)
        for again in range(_TRIES):
            start = time.perf_counter()
            decision = decide(query, loads, policy, now_s=_NOW_S, decision_id="bench")
            took_s[place, again] = time.perf_counter() - start
    table = Table("One decision, µs", ("which", "median", "99 %", "largest"))
    for name, each in (("first on a load", took_s[:, 0]), (f"least of {_TRIES}", took_s.min(axis=1))):
        table.add(
            name, *(round(float(value) * 1e6, 1) for value in (np.median(each), np.quantile(each, 0.99), each.max()))
        )
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "numpy": np.__version__}
    asked = {"models": models, "replicas": replicas, "depths": depths, "classes": classes, "states": states}
    notes = [
        f"{len(decision.candidates.flags)} candidates; reasons and the event's columns are part of the time",
        "first: with new step curves of every replica, as they come; what else the machine does is in it",
        f"least of {_TRIES}: the same decision again; what else the machine does is mostly not in it",
    ]
    return Report("decide", machine, asked, [table], notes)


def _policy(models: int, depths: int, classes: int) -> Policy:
    names = [f"m{at}" for at in range(models)]
    price = "price_usd_per_million: {input: 1, output: 2}"
    text = f"""
version: 1
models: {{{", ".join(f"{name}: {{{price}, quality: {{default: 0.{5 + at % 5}}}}}" for at, name in enumerate(names))}}}
batch_classes: {{{", ".join(f"c{at}: {{co_batch_tokens: {64 << at}}}" for at in range(classes))}}}
tiers:
  standard:
    {{batch_class: c0, also_batch_classes: [{", ".join(f"c{at}" for at in range(1, classes))}], max_depth: {depths},
      ttft_ms: 500, tpot_ms: 30, deadline_ms: 4000}}
tenants: {{acme: {{keys: [], tier: standard, models: [{", ".join(names)}]}}}}
routing: {{depth_caps: {list(range(depths))}, exploration: 0.02}}
"""
    found = parse_policy(text)
    assert found.policy is not None, found.problems
    return found.policy


def _load(rng: np.random.Generator, model: str, at: int) -> LoadSnapshot:
    """A replica somewhere between idle and full; a quarter have a queue."""
    seconds = 0.004 + np.cumsum(rng.random(len(_SIZES)) * 0.003)
    survival = np.cumprod(rng.uniform(0.6, 0.95, 7))
    queued = max(0, int(rng.integers(-12, 5)))
    return LoadSnapshot(
        model,
        f"{model}-{at}",
        1,
        _NOW_S - float(rng.random() * 0.1),
        queued_requests=queued,
        queued_tokens=queued * 200,
        running_requests=16 if queued else int(rng.integers(0, 17)),
        step_curve=tuple(zip(_SIZES, seconds.tolist(), strict=True)),
        draft_s=0.002,
        round_s=0.01,
        acceptance_tokens=(1.0, *(1.0 + np.cumsum(survival)).tolist()),
        drafter_ready=True,
        context_tokens=2048,
        max_running_requests=16,
    )
