"""Time of one decision, budget and fill, of every scheduler at many requests. No model is involved."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from outrider.bench.report import Report, Table
from outrider.scheduling import (
    Algorithm1,
    Asynchronous,
    Constrained,
    DepthTable,
    FixedDepth,
    NoDrafts,
    PrefixScheduler,
    Requests,
    RoundCosts,
    StepCostCurve,
    Threshold,
)
from outrider.scheduling.scheduler import Floats, Ints

__all__ = ["measure_scheduler"]

_STAIR = 16
"""Rows a matrix product is padded to on an accelerator: what makes step curves staircases."""
_TRIES = 5


def measure_scheduler(*, requests: int, slots: int, tenants: int, states: int, say: Callable[[str], None]) -> Report:
    """Median, 99th percentile and maximum over random states; schedulers take turns on each of them."""
    curves = _curves(requests * (1 + slots))
    took_s: dict[tuple[str, str], list[tuple[float, float]]] = {}
    rng = np.random.default_rng(0)
    for place in range(states):
        say(f"state {place + 1} of {states}")
        for curve, costs in curves.items():
            plain, survival = _state(rng, requests, slots)
            bound = _bound(rng, plain, tenants)
            for name, each, asked in _arms(plain, bound):
                best_s = min((_decide(each, asked, costs, survival) for _ in range(_TRIES)), key=sum)
                took_s.setdefault((name, curve), []).append(best_s)
    table = Table("Decision, ms", ("scheduler", "curve", "budget", "fill", "both", "both, 99 %", "both, largest"))
    for (name, curve), pairs in took_s.items():
        budget_ms, fill_ms = np.array(pairs).T * 1e3
        both = budget_ms + fill_ms
        cells = (np.median(budget_ms), np.median(fill_ms), np.median(both), np.quantile(both, 0.99), both.max())
        table.add(name, curve, *(round(float(cell), 4) for cell in cells))
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "numpy": np.__version__}
    asked_for = {"requests": requests, "slots": slots, "tenants": tenants, "states": states}
    note = (
        f"a state's time is the least of {_TRIES} decisions in a row: what else the machine does is not the scheduler's"
    )
    return Report("scheduler", machine, asked_for, [table], [note])


def _arms(plain: Requests, bound: Requests) -> list[tuple[str, PrefixScheduler, Requests]]:
    """Every scheduler without constraints, and those that know any with floors and allowances."""
    everything: tuple[PrefixScheduler, ...] = (
        NoDrafts(), FixedDepth(5), Threshold(0.5), DepthTable(((len(plain), 3),)), Algorithm1(), Asynchronous(),
        Constrained(),
    )  # fmt: skip
    limited: tuple[PrefixScheduler, ...] = (Asynchronous(), Constrained())
    return [(each.name, each, plain) for each in everything] + [
        (f"{each.name}, floors and allowances", each, bound) for each in limited
    ]


def _curves(most: int) -> dict[str, RoundCosts]:
    """Costs as measured curves have them: a line, and stairs with a knee."""
    sizes = sorted({1, *range(_STAIR, most + 1, _STAIR), *range(_STAIR + 1, most + 1, _STAIR)})
    stairs = [1.0 + 0.02 * (-(-size // _STAIR)) + 0.001 * max(0, size - most // 2) for size in sizes]
    host = RoundCosts(
        StepCostCurve((1, most), (1.0, 3.0), "line"), _draft_s, plain_s=0.05, drafted_s=0.1, append_row_s=1e-4
    )
    return {"line": host, "stairs": replace(host, step=StepCostCurve(tuple(sizes), tuple(stairs), "stairs"))}


def _draft_s(requests: Ints) -> Floats:
    return np.asarray(0.2 + 0.002 * requests, dtype=np.float64)


def _state(rng: np.random.Generator, requests: int, slots: int) -> tuple[Requests, Floats]:
    """Requests of every difficulty, and live survival about as foretold."""
    ease = rng.beta(4, 2, (requests, 1))
    expected = np.cumprod(np.repeat(ease, slots, axis=1), axis=1, dtype=np.float64)
    survival = np.cumprod(
        np.clip(ease + 0.15 * rng.standard_normal((requests, slots)), 0.01, 0.99), axis=1, dtype=np.float64
    )
    asked = Requests(
        caps=rng.integers(slots - 1, slots + 1, requests),
        weights=rng.choice((0.5, 1.0, 2.0), requests),
        expected=expected,
        lag_tokens=rng.integers(0, 5, requests),
        remaining=rng.integers(1, 300, requests),
    )
    return asked, survival


def _bound(rng: np.random.Generator, plain: Requests, tenants: int) -> Requests:
    """The same with TPOT floors of a third of the requests and an allowance of every tenant."""
    size = len(plain)
    return replace(
        plain,
        needed=np.where(rng.random(size) < 1 / 3, 1.0 + 3.0 * rng.random(size), 0.0),
        tenants=rng.integers(0, tenants, size),
        allowances=rng.integers(0, 1 + 7 * size // tenants, tenants),
        probes=rng.random(size) < 0.02,
    )


def _decide(scheduler: PrefixScheduler, requests: Requests, costs: RoundCosts, survival: Floats) -> tuple[float, float]:
    """Seconds of budget and of fill."""
    start = time.perf_counter()
    budget = scheduler.budget(requests, costs)
    middle = time.perf_counter()
    live = survival * budget.drafted[:, None]
    again = time.perf_counter()
    scheduler.fill(requests, costs, budget, live)
    return middle - start, time.perf_counter() - again
