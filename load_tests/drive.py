"""Drive an HTTP endpoint as a scenario says, and tell what its clients saw: python load_tests/drive.py SCENARIO."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from figures import notes_of, tables_of
from outrider.bench.client import StreamClient
from outrider.bench.report import Report
from outrider.bench.setup import surroundings
from outrider.bench.spread import Say
from outrider.policy import DEMO_KEY
from scenario import Scenario
from showing import show
from traffic import Level, clients_of, drive, requests_of

__all__ = ["main", "measure"]


async def measure(scenario: Scenario, name: str, url: str, key: str, repetitions: int, say: Say) -> Report:
    """Every load in turn, again for every repetition with the next seed. Raises ConfigurationError before any load.

    key: of the classes that have none of their own.
    """
    requests_of(scenario, scenario.seed)  # refuses what cannot be asked
    configuration = {"url": url, **surroundings()}
    async with clients_of(scenario, url, key) as clients:
        configuration["models"] = sorted({model for client in clients.values() for model in await client.models()})
        levels = await _levels(clients, scenario, repetitions, say)
    parameters = {
        "scenario": name,
        "repetitions": repetitions,
        "seed": scenario.seed,
        "timeout_s": scenario.timeout_s,
        **scenario.model_dump(mode="json", exclude_defaults=True),  # keys are masked
    }
    return Report("load", configuration, parameters, tables_of(scenario, levels), notes_of(scenario, levels))


async def _levels(
    clients: Mapping[str, StreamClient], scenario: Scenario, repetitions: int, say: Say
) -> dict[float, list[Level]]:
    levels: dict[float, list[Level]] = {load: [] for load in scenario.arrivals.loads}
    for repetition in range(repetitions):
        for load, found in levels.items():
            say(f"{scenario.arrivals.label(load)}, repetition {repetition + 1} of {repetitions}")
            found.append(await drive(clients, scenario, load, scenario.seed + repetition))
    return levels


def main(
    scenario: Annotated[Path, typer.Argument(help="Scenario YAML.")],
    url: Annotated[str, typer.Option(help="Where the platform answers.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(help="API key of classes without one.", envvar="OUTRIDER_API_KEY")] = DEMO_KEY,
    repetitions: Annotated[int, typer.Option(min=1, help="Of every load, with seeds that differ.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON form to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Drive one scenario and print its figures."""

    def measured(say: Say) -> Report:
        return asyncio.run(measure(Scenario.load(scenario), scenario.stem, url, key, repetitions, say))

    show("load", measured, out, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
