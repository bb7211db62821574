"""Closed-loop load over HTTP: n users stream answers, each asking again when the last answer has ended."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from rich.console import Console

from outrider import demo_models
from outrider.bench.client import StreamClient, Streamed
from outrider.bench.report import Report, Table
from outrider.errors import ConfigurationError, OutriderError
from outrider.policy import DEMO_KEY

Messages = list[dict[str, str]]


class Scenario(BaseModel):
    """One load: how many users for how long, and what their requests have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: tuple[PositiveInt, ...] = Field(min_length=1)
    duration_s: PositiveFloat
    warm_up_s: float = Field(default=0.0, ge=0)
    body: dict[str, Any]
    domains: tuple[str, ...] = ()

    @classmethod
    def load(cls, file: Path) -> Scenario:
        """Raises ConfigurationError that names the file and the first offending field."""
        try:
            return cls.model_validate(yaml.safe_load(file.read_text("utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{file} does not load: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "(top level)"
            raise ConfigurationError(f"{file}: {where}: {first['msg']}") from error


@dataclass(slots=True)
class Outcome:
    """What the users of one load saw; `counted_s` is the time the answers were counted in."""

    answers: list[Streamed] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    counted_s: float = 0.0


async def drive(client: StreamClient, scenario: Scenario, users: int, prompts: Iterator[Messages]) -> Outcome:
    """Let `users` users ask until the time is over; answers that began in the warm-up are not counted."""
    outcome = Outcome()
    began = time.perf_counter() + scenario.warm_up_s
    ends = began + scenario.duration_s

    async def user() -> None:
        while (asked := time.perf_counter()) < ends:
            try:
                answer = await client.chat({**scenario.body, "messages": next(prompts)})
            except ConfigurationError as error:
                outcome.refused.append(error.message)
                await asyncio.sleep(0.1)  # a refusing server is asked again, not hammered
                continue
            if asked >= began:
                outcome.answers.append(answer)

    await asyncio.gather(*(user() for _ in range(users)))
    outcome.counted_s = time.perf_counter() - began
    return outcome


COLUMNS = (
    "users", "answers", "refused", "tok/s", "tok/s per user", "TTFT p50 ms", "TTFT p99 ms",
    "TPOT p50 ms", "TPOT p99 ms", "longest gap p99 ms",
)  # fmt: skip


def add_row(table: Table, users: int, outcome: Outcome) -> None:
    """One line of figures; latencies stay empty when nothing was answered."""
    answers = outcome.answers
    rate = sum(answer.completion_tokens for answer in answers) / outcome.counted_s
    paces = [answer.tpot_s for answer in answers if answer.tpot_s is not None]
    table.add(
        users, len(answers), len(outcome.refused), rate, rate / users,
        *(_percentile_ms([answer.first_s for answer in answers], q) for q in (50, 99)),
        *(_percentile_ms(paces, q) for q in (50, 99)),
        _percentile_ms([answer.longest_gap_s for answer in answers], 99),
    )  # fmt: skip


def _percentile_ms(values: list[float], q: int) -> float | None:
    return float(np.percentile(values, q)) * 1e3 if values else None


def prompts_of(scenario: Scenario) -> Iterator[Messages]:
    """Held-out conversations of the scenario's domains, over and over; ConfigurationError when there are none."""
    found = [item["messages"] for item in demo_models.held_out()
             if not scenario.domains or item["domain"] in scenario.domains]  # fmt: skip
    if not found:
        raise ConfigurationError(f"no held-out prompt has a domain of {', '.join(scenario.domains)}")
    return itertools.cycle(found)


async def _run(scenario: Scenario, url: str, key: str, report: Report) -> None:
    prompts = prompts_of(scenario)
    async with StreamClient(url, key) as client:
        for users in scenario.users:
            outcome = await drive(client, scenario, users, prompts)
            add_row(report.tables[0], users, outcome)
            report.notes += [f"{users} users, refused: {reason}" for reason in sorted(set(outcome.refused))]


def main(
    scenario: Annotated[Path, typer.Argument(help="Scenario YAML.")],
    url: Annotated[str, typer.Option(help="Where the platform answers.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(help="API key.", envvar="OUTRIDER_API_KEY")] = DEMO_KEY,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Drive one scenario and print its figures."""
    try:
        plan = Scenario.load(scenario)
        report = Report("load", {"url": url}, plan.model_dump(mode="json"), [Table(scenario.stem, COLUMNS)])
        asyncio.run(_run(plan, url, key, report))
    except OutriderError as error:
        typer.echo(f"load test: {error.message}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        report.show(Console())


if __name__ == "__main__":
    typer.run(main)
