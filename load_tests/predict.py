"""How far predictions can be trusted on a load they were not fitted on: python load_tests/predict.py, beside a server.

Some loads teach a predictor of our own, from the server's event log; the others are predicted with what it had learnt
by then, frozen, and compared with what happened. The server's own predictor goes on learning: it is the second arm.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from outrider.bench.report import Report, Table
from outrider.bench.setup import surroundings
from outrider.bench.spread import Say
from outrider.errors import ConfigurationError
from outrider.gateway.records import observed_of
from outrider.policy import DEMO_KEY
from outrider.routing import Corrections, Observed, Predictor
from outrider.telemetry import RequestEvent
from outrider.types import PredictionBasis
from scenario import Scenario
from showing import show
from traffic import clients_of, drive

__all__ = ["main", "measure", "pinball"]

HERE = Path(__file__).parent
QUANTILE = 0.9
_DRAINED_S = 2.0
_METRICS = ("TTFT", "TPOT")


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request, and what its 90 % quantile was taken to be: by the frozen predictor, by the server's."""

    model: str
    traffic: str
    load: float
    metric: str
    happened_s: float
    frozen_s: float
    online_s: float
    raw_s: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A prediction and its outcome, as the gateway pairs them. traffic: the class, named by the first tag."""

    traffic: str
    basis: PredictionBasis
    observed: Observed
    online_s: tuple[float | None, float | None]

    @classmethod
    def of(cls, event: RequestEvent) -> Pair | None:
        """None where nothing was predicted."""
        decision = event.decision
        if decision is None or decision.basis is None:
            return None
        observed = observed_of(event.outcome, decision.basis.choices)
        online_s = (decision.quantile_ttft_s, decision.quantile_tpot_s)
        return cls(event.tags[0] if event.tags else "", decision.basis, observed, online_s)


def pinball(happened_s: Sequence[float], predicted_s: Sequence[float] | float) -> float:
    """Mean loss of a quantile's prediction: what is passed costs 0.9 of the distance, what is not reached 0.1."""
    off = np.asarray(happened_s) - np.asarray(predicted_s)
    return float(np.maximum(QUANTILE * off, (QUANTILE - 1.0) * off).mean())


def measure(scenario: Scenario, events: Path, fitted: int, url: str, key: str, say: Say) -> Report:
    """Drive the first `fitted` loads, fit, drive the others, compare.

    Raises ConfigurationError where the server writes no events to that file or nothing is left to compare.
    """
    loads = scenario.arrivals.loads
    if not 0 < fitted < len(loads):
        raise ConfigurationError(f"--fitted is {fitted}: of {len(loads)} loads some must be fitted and some compared")
    learnt = Predictor()
    teaching = [
        each for at, load in enumerate(loads[:fitted]) for each in _seen(scenario, events, at, load, url, key, say)
    ]
    for event in teaching:
        learnt.observe(event.basis, event.observed)
    state = learnt.state()
    samples = [
        sample
        for at, load in enumerate(loads[fitted:], fitted)
        for event in _seen(scenario, events, at, load, url, key, say)
        for sample in _samples(event, load, state)
    ]
    if not samples:
        raise ConfigurationError(f"no answered request is in {events} since this began: is it the server's event log?")
    parameters = {"fitted": list(loads[:fitted]), "compared": list(loads[fitted:]), "taught": len(teaching)}
    parameters |= {"scenario": scenario.model_dump(mode="json", exclude_defaults=True)}
    report = Report("predict", {"url": url, **surroundings()}, parameters)
    report.tables = [_coverage(scenario, samples), _losses(samples)]
    judged = cells(samples)
    for online, name in ((False, "frozen"), (True, "server's")):
        right = sum(0.85 <= covered(each, online=online) <= 0.95 for each in judged)
        report.notes.append(f"{right} of {len(judged)} cells within 85–95 % ({name})")
    report.notes.append("a cell of n requests at 90 % is off by 0.3 ÷ √n of chance alone: 2.4 points at 150")
    return report


def cells(samples: Sequence[Sample]) -> list[list[Sample]]:
    """By metric, model, load and traffic class, in that order."""
    found: dict[tuple[str, str, float, str], list[Sample]] = {}
    for each in samples:
        found.setdefault((each.metric, each.model, each.load, each.traffic), []).append(each)
    return [found[name] for name in sorted(found)]


def covered(samples: Sequence[Sample], *, online: bool) -> float:
    """Share that took no longer than the quantile of the server's predictor, or of the frozen one."""
    return sum(each.happened_s <= (each.online_s if online else each.frozen_s) for each in samples) / len(samples)


def _coverage(scenario: Scenario, samples: Sequence[Sample]) -> Table:
    columns = (
        "metric",
        "model",
        "load",
        "prompts",
        "requests",
        "frozen: kept %",
        "server's: kept %",
        "p50, ms",
        "p90, ms",
    )
    table = Table("how many kept their predicted 90 % quantile", columns)
    for cell in cells(samples):
        first, happened = cell[0], [each.happened_s for each in cell]
        names = (first.metric, first.model, scenario.arrivals.label(first.load), first.traffic, len(cell))
        table.add(
            *names,
            *(100 * covered(cell, online=online) for online in (False, True)),
            *(1e3 * float(np.quantile(happened, q)) for q in (0.5, 0.9)),
        )
    return table


def _losses(samples: Sequence[Sample]) -> Table:
    """Against the constant that is best for the compared requests of a model, which is known only afterwards."""
    table = Table(
        "pinball loss at 90 % ÷ that of the best constant in hindsight",
        ("metric", "model", "requests", "frozen", "server's", "uncorrected curves"),
    )
    for metric in _METRICS:
        for model in (*sorted({each.model for each in samples}), "all"):
            of = [each for each in samples if each.metric == metric and model in (each.model, "all")]
            happened = [each.happened_s for each in of]
            against = pinball(happened, float(np.quantile(happened, QUANTILE)))
            predictions = ([each.frozen_s for each in of], [each.online_s for each in of], [each.raw_s for each in of])
            table.add(metric, model, len(of), *(pinball(happened, each) / against for each in predictions))
    return table


def _seen(scenario: Scenario, events: Path, at: int, load: float, url: str, key: str, say: Say) -> Iterator[Pair]:
    """Events of one load's counted requests that a prediction was made for."""
    say(f"{scenario.arrivals.label(load)}, load {at + 1} of {len(scenario.arrivals.loads)}")
    start = events.stat().st_size if events.exists() else 0
    began_s = time.time() + scenario.warm_up_s
    asyncio.run(_driven(scenario, load, scenario.seed + at, url, key))
    time.sleep(_DRAINED_S)
    if not events.exists():
        raise ConfigurationError(f"{events} does not exist: serve with `events: {events}` in the deployment's file")
    with events.open("rb") as file:
        file.seek(start)
        found = [msgspec.json.decode(line, type=RequestEvent) for line in file]
    for event in found:
        answered = event.outcome.error_code is None and not event.outcome.cache_hit
        pair = Pair.of(event)
        if answered and pair is not None and event.time_s >= began_s:
            yield pair


async def _driven(scenario: Scenario, load: float, seed: int, url: str, key: str) -> None:
    async with clients_of(scenario, url, key) as clients:
        await drive(clients, scenario, load, seed)


def _samples(pair: Pair, load: float, state: Corrections) -> Iterator[Sample]:
    basis, observed = pair.basis, pair.observed
    spreads = state.spreads(basis.model, basis.running + basis.queued, basis.places, basis.prompt_tokens, basis.replica)
    raws, happened = (basis.ttft_s, basis.tpot_s), (observed.ttft_s, observed.tpot_s)
    for metric, spread, raw_s, online_s, took_s in zip(_METRICS, spreads, raws, pair.online_s, happened, strict=True):
        if took_s is not None and online_s is not None:
            frozen_s = raw_s * math.exp(spread.at(QUANTILE))
            yield Sample(basis.model, pair.traffic, load, metric, took_s, frozen_s, online_s, raw_s)


def main(
    events: Annotated[Path, typer.Argument(help="The server's event log (`events` in its deployment file).")],
    scenario: Annotated[Path, typer.Option(help="Scenario YAML.")] = HERE / "scenarios" / "predict.yaml",
    fitted: Annotated[int, typer.Option(min=1, help="How many of its loads, from the first, are fitted on.")] = 3,
    url: Annotated[str, typer.Option(help="Where the platform answers.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="OUTRIDER_API_KEY", help="A tenant's key.")] = DEMO_KEY,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON form to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Teach, predict, compare, print."""

    def measured(say: Say) -> Report:
        return measure(Scenario.load(scenario), events, fitted, url, key, say)

    show("predict", measured, out, as_json=as_json, width=150)


if __name__ == "__main__":
    typer.run(main)
