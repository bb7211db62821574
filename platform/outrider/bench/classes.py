"""Batch classes on one engine: what each buys and gives away with its like, and what mixed company costs it."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from outrider.bench.goodput import Outcome
from outrider.bench.prompts import held_out_prompts
from outrider.bench.report import Report, Table
from outrider.bench.setup import Setup, requests_for
from outrider.bench.speculation.drive import Driver
from outrider.bench.spread import Say, Spread, ratios, take_turns
from outrider.engine import Engine
from outrider.local import LinkKind
from outrider.types import BatchClass

__all__ = ["measure_classes"]

MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class _Pace:
    """Of the requests of one class in one run: medians over requests, and their tokens over the whole run's time."""

    ttft_s: float
    tpot_s: float
    rate: float


_Run = dict[str, _Pace]
"""By class; under `MIXED`, of all."""


def measure_classes(
    setup: Setup,
    *,
    classes: Sequence[BatchClass],
    streams: int,
    max_tokens: int,
    repetitions: int,
    say: Say,
) -> Report:
    """TTFT, TPOT and tokens per second with all requests of one class, for each class, and with classes in turn.

    Closed loop: `streams` requests are in the engine at any time, queued ones included, three times as many in all.
    """
    chosen = [p.tokens for p in held_out_prompts(setup.target, None, max_tokens=max_tokens, file=setup.held_out)]
    prompts = [chosen[place % len(chosen)] for place in range(3 * streams)]
    parameters = {"streams": streams, "requests": len(prompts), "max_tokens": max_tokens, "repetitions": repetitions,
                  "classes": [asdict(each) for each in classes]}  # fmt: skip
    report = Report("classes", setup.configuration(), parameters)
    with setup.open(LinkKind.IN_PROCESS, streams=streams) as local:
        arms: dict[str, Callable[[], _Run]] = {
            each.name: partial(_closed_loop, local.engine, prompts, [each], max_tokens, streams) for each in classes
        }
        arms[MIXED] = partial(_closed_loop, local.engine, prompts, classes, max_tokens, streams)
        runs = take_turns(arms, repetitions, say)
    report.tables += [_alone(classes, runs), _mixed(classes, runs)]
    report.notes += [
        "greedy answers of max_tokens each; TPOT and TTFT are medians over a run's requests, from submission on",
        f"ratios are taken repetition by repetition, against {classes[0].name}",
        "tokens per second count the whole run, its thinning end included",
    ]
    return report


def _closed_loop(
    engine: Engine, prompts: Sequence[tuple[int, ...]], classes: Sequence[BatchClass], max_tokens: int, streams: int
) -> _Run:
    driver = Driver(engine)
    asked = [
        replace(request, batch_class=classes[place % len(classes)])
        for place, request in enumerate(requests_for(list(prompts), max_tokens, ignore_eos=True))
    ]
    waiting = deque(asked)
    started_s = time.perf_counter()
    while waiting or driver.in_flight:
        while waiting and driver.in_flight < streams:
            driver.submit(waiting.popleft(), time.perf_counter())
        driver.step()
    wall_s = time.perf_counter() - started_s
    outcomes = [(request.batch_class, driver.outcomes[request.request_id]) for request in asked]
    found = {kind.name: _pace([o for owner, o in outcomes if owner == kind], wall_s) for kind in classes}
    return found | {MIXED: _pace([outcome for _, outcome in outcomes], wall_s)}


def _pace(outcomes: Sequence[Outcome], wall_s: float) -> _Pace:
    return _Pace(
        statistics.median(o.ttft_s for o in outcomes if o.ttft_s is not None),
        statistics.median(o.tpot_s for o in outcomes if o.tpot_s is not None),
        sum(o.tokens for o in outcomes) / wall_s,
    )


def _alone(classes: Sequence[BatchClass], runs: dict[str, list[_Run]]) -> Table:
    base = classes[0].name
    table = Table(
        "each class with its like",
        ("class", "TTFT p50 ms", "TPOT p50 ms", f"÷ {base}", "tok/s", f"÷ {base}, tok/s"),
    )
    first = [run[base] for run in runs[base]]
    for each in classes:
        own = [run[each.name] for run in runs[each.name]]
        table.add(
            each.name,
            Spread.of([pace.ttft_s * 1e3 for pace in own]),
            Spread.of([pace.tpot_s * 1e3 for pace in own]),
            ratios([pace.tpot_s for pace in own], [pace.tpot_s for pace in first]),
            Spread.of([pace.rate for pace in own]),
            ratios([pace.rate for pace in own], [pace.rate for pace in first]),
        )
    return table


def _mixed(classes: Sequence[BatchClass], runs: dict[str, list[_Run]]) -> Table:
    table = Table(
        "classes in turn, request by request",
        ("class", "TTFT p50 ms", "TPOT p50 ms", "÷ with its like", "tok/s"),
    )
    for each in classes:
        own = [run[each.name] for run in runs[MIXED]]
        alone = [run[each.name] for run in runs[each.name]]
        table.add(
            each.name,
            Spread.of([pace.ttft_s * 1e3 for pace in own]),
            Spread.of([pace.tpot_s * 1e3 for pace in own]),
            ratios([pace.tpot_s for pace in own], [pace.tpot_s for pace in alone]),
            Spread.of([pace.rate for pace in own]),
        )
    table.add("all", None, None, None, Spread.of([run[MIXED].rate for run in runs[MIXED]]))
    return table
