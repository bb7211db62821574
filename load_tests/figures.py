"""Counted requests as tables: per load and class, with the spread of the repetitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from outrider.bench.goodput import Fate, Goodput, Slo
from outrider.bench.report import Cell, Table
from outrider.bench.spread import Spread
from scenario import Scenario
from traffic import Level, Seen

__all__ = ["LATE_S", "notes_of", "tables_of"]

LATE_S = 0.025
"""A generator whose 99th percentile of lateness is beyond this was itself part of what it measured."""

NOT_SHARED = {"decision", "policy"}
"""Headers that name a request or are the same for all."""

Levels = Mapping[float, Sequence[Level]]
"""The repetitions of each load."""


@dataclass(frozen=True, slots=True)
class View:
    """One repetition of one load, of one class or all, with the service level of each class."""

    level: Level
    slos: Mapping[str, Slo]
    arrivals_s: float
    """For how long requests arrived."""

    @property
    def seen(self) -> list[Seen]:
        return self.level.seen

    @property
    def goodput(self) -> Goodput:
        return Goodput.of([(each.outcome, self.slos[each.traffic]) for each in self.seen], self.level.counted_s)


Figure = Callable[[View], float | None]


def _fate(fate: Fate, view: View) -> int:
    return sum(each.streamed.fate is fate for each in view.seen)


def _tokens(view: View) -> int:
    return sum(each.streamed.completion_tokens for each in view.seen)


def _tokens_per_user_s(view: View) -> float | None:
    """Tokens over the time their clients waited: in a closed loop the rate divided by the users."""
    waited_s = sum(each.late_s + each.streamed.wall_s for each in view.seen)
    return _tokens(view) / waited_s if waited_s else None


def _percentile(of: Callable[[Seen], float | None], q: int, view: View) -> float | None:
    """In ms, of the requests that have the figure."""
    found = [value for each in view.seen if (value := of(each)) is not None]
    return float(np.percentile(found, q)) * 1e3 if found else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _engine(name: str, view: View) -> float:
    """Sum of a count that the server tells under `usage.outrider`."""
    told = (each.streamed.usage.get("outrider") or {} for each in view.seen)
    return float(sum(usage.get(name) or 0 for usage in told))


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def _usage_mean(read: Callable[[Mapping[str, Any]], float], view: View) -> float | None:
    found = [read(each.streamed.usage) for each in view.seen if each.streamed.usage]
    return sum(found) / len(found) if found else None


def _cached(usage: Mapping[str, Any]) -> float:
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def _latencies(name: str, of: Callable[[Seen], float | None]) -> dict[str, Figure]:
    return {f"{name} p{q}": partial(_percentile, of, q) for q in (50, 90, 99)}


REQUESTS: dict[str, Figure] = {
    "offered": lambda view: len(view.seen),
    **{fate.value: partial(_fate, fate) for fate in Fate},
    "offered/s": lambda view: len(view.seen) / view.arrivals_s,
    "completed/s": lambda view: _fate(Fate.ANSWERED, view) / view.level.counted_s,
    "tok/s": lambda view: _tokens(view) / view.level.counted_s,
    "tok/s per user": _tokens_per_user_s,
}
LATENCIES: dict[str, Figure] = {
    **_latencies("TTFT", lambda each: each.outcome.ttft_s),
    **_latencies("TPOT", lambda each: each.outcome.tpot_s),
    **_latencies("E2E", lambda each: each.outcome.e2e_s),
    "longest gap p99": partial(_percentile, lambda each: each.streamed.longest_gap_s, 99),
}
LEVELS: dict[str, Figure] = {
    "USD per 1,000 requests": lambda view: _ratio(1e3 * _engine("cost_usd", view), len(view.seen)),
    "attained %": lambda view: _percent(view.goodput.attainment),
    "attained % of who stayed": lambda view: _percent(view.goodput.attainment_of_stayed),
    "good requests/s": lambda view: view.goodput.requests_per_s,
    "good tok/s": lambda view: view.goodput.tokens_per_s,
}
ENGINE: dict[str, Figure] = {
    "tokens per round": lambda view: _ratio(
        _engine("accepted_tokens", view) + _engine("rounds", view), _engine("rounds", view)
    ),
    "rounds": lambda view: _engine("rounds", view),
    "accepted %": lambda view: _percent(_ratio(_engine("accepted_tokens", view), _engine("admitted_tokens", view))),
    "prompt tokens": partial(_usage_mean, lambda usage: usage["prompt_tokens"]),
    "of them cached": partial(_usage_mean, _cached),
}
GENERATOR: dict[str, Figure] = {
    **{f"late p{q} ms": partial(_percentile, lambda each: each.late_s, q) for q in (50, 99, 100)},
    "counted s": lambda view: view.level.counted_s,
}


def tables_of(scenario: Scenario, levels: Levels) -> list[Table]:
    """Requests, latencies, service levels, what the server tells and decided, and how late the generator was."""
    tables = [
        _table("requests", REQUESTS, scenario, levels),
        _table("latency, ms", LATENCIES, scenario, levels),
        _table("service levels", LEVELS, scenario, levels),
    ]
    everything = [each for repetitions in levels.values() for level in repetitions for each in level.seen]
    if any("outrider" in each.streamed.usage for each in everything):
        tables.append(_table("engine, as the server tells", ENGINE, scenario, levels))
    if fields := sorted({name for each in everything for name in each.streamed.decision} - NOT_SHARED):
        tables.append(_decisions(fields, scenario, levels))
    if any(each.streamed.reason for each in everything):
        tables.append(_reasons(scenario, levels))
    if scenario.arrivals.open:
        tables.append(_table("generator", GENERATOR, scenario, levels, by_class=False))
    return tables


def notes_of(scenario: Scenario, levels: Levels) -> list[str]:
    """What a reader must know before believing the figures: late generators, and refusals in the server's words."""
    notes = []
    for load, repetitions in levels.items():
        late_ms = [_percentile(lambda each: each.late_s, 99, View(level, {}, 0.0)) or 0.0 for level in repetitions]
        if scenario.arrivals.open and max(late_ms) > LATE_S * 1e3:
            notes.append(
                f"{scenario.arrivals.label(load)}: THE GENERATOR WAS LATE (p99 {max(late_ms):.0f} ms, more than "
                f"{LATE_S * 1e3:.0f}): these latencies are partly its own; drive from another machine or offer less"
            )
    said = {
        each.streamed.reason: each.streamed.message
        for repetitions in levels.values()
        for level in repetitions
        for each in level.seen
        if each.streamed.message
    }
    return notes + [f"{reason}: {message}" for reason, message in sorted(said.items())]


def _rows(scenario: Scenario, levels: Levels, *, by_class: bool = True) -> Iterator[tuple[str, str, list[View]]]:
    """(load, class, its repetitions); all classes together first where there are several."""
    slos = {name: traffic.slo.slo for name, traffic in scenario.classes.items()}
    for load, repetitions in levels.items():
        label = scenario.arrivals.label(load)
        if len(slos) > 1 or not by_class:
            yield label, "all", [View(level, slos, scenario.duration_s) for level in repetitions]
        for name in slos if by_class else ():
            yield label, name, [View(level.of(name), slos, scenario.duration_s) for level in repetitions]


def _table(
    title: str, figures: Mapping[str, Figure], scenario: Scenario, levels: Levels, *, by_class: bool = True
) -> Table:
    table = Table(title, ("load", "class", *figures))
    for load, name, views in _rows(scenario, levels, by_class=by_class):
        table.add(load, name, *(_cell([figure(view) for view in views]) for figure in figures.values()))
    return table


def _cell(values: Sequence[float | None]) -> Cell:
    """The value of a single repetition, the spread of several; nothing where no repetition has one."""
    found = [value for value in values if value is not None]
    if len(values) == 1 or not found:
        return found[0] if found else None
    return Spread.of(found)


def _decisions(fields: Sequence[str], scenario: Scenario, levels: Levels) -> Table:
    """Shares of what the server decided, over all repetitions, of requests that it took."""
    table = Table("decisions, % of requests taken", ("load", "class", *fields))
    for load, name, views in _rows(scenario, levels):
        taken = [each.streamed.decision for view in views for each in view.seen if each.streamed.decision]
        table.add(load, name, *(_shares(decision.get(each, "–") for decision in taken) for each in fields))
    return table


def _shares(values: Iterable[str]) -> str:
    counts = Counter(values)
    return ", ".join(f"{value} {100 * count / counts.total():.0f}" for value, count in counts.most_common())


def _reasons(scenario: Scenario, levels: Levels) -> Table:
    """Why requests were no answers, over all repetitions."""
    table = Table("ends without an answer, all repetitions", ("load", "class", "end", "reason", "requests"))
    for load, repetitions in levels.items():
        ends = Counter(
            (each.traffic, each.streamed.fate.value, each.streamed.reason)
            for level in repetitions
            for each in level.seen
            if each.streamed.fate is not Fate.ANSWERED
        )
        for (traffic, fate, reason), count in sorted(ends.items()):
            table.add(scenario.arrivals.label(load), traffic, fate, reason, count)
    return table
