"""`outrider bench speculation`: every way of choosing depths on the same engine, in closed loop or open."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from outrider.cli.bench_options import (
    Device,
    Drafter,
    Dtype,
    HeldOut,
    Json,
    Model,
    Out,
    Repetitions,
    Target,
    Threads,
    finish,
    open_setup,
    saying,
)  # fmt: skip
from outrider.errors import ConfigurationError
from outrider.types import Verification

if TYPE_CHECKING:
    from outrider.bench import Setup

__all__ = ["app"]

app = typer.Typer()

OneToken = Annotated[
    Path | None, typer.Option(help="Directory of a γ = 1 drafter of the target, for fixed:1; else slot 1 of the block.")
]
Heavier = Annotated[int, typer.Option(min=0, help="Idle layers to give the target, so that its step streams weights.")]
Arm = Annotated[list[str] | None, typer.Option(help="A scheduler's name, or lookup; repeatable; all if absent.")]
Page = Annotated[bool, typer.Option("--page", help="Draw pictures beside --out, and write README.md anew there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how much there is to measure, and stop.")]


@app.command()
def speculation(
    concurrency: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 1, 2, 4 … 64 if absent.")] = None,
    temperature: Annotated[list[float] | None, typer.Option(min=0.0, help="Repeatable; 0 and 1 if absent.")] = None,
    domain_concurrency: Annotated[
        list[int] | None, typer.Option(min=0, help="Of each domain apart; repeatable; 1, 8, 64 if absent, 0 for none.")
    ] = None,
    arm: Arm = None,
    one_token_drafter: OneToken = None,
    heavier: Heavier = 0,
    verification: Annotated[str, typer.Option(help="Of sampled answers: coupled or rejection.")] = "coupled",
    requests_per_stream: Annotated[int, typer.Option(min=1, help="Requests of a run, for each at a time.")] = 2,
    least_requests: Annotated[int, typer.Option(min=1, help="Requests of a run at least.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=2, help="Output tokens per request at most.")] = 96,
    repetitions: Repetitions = 3,
    dry_run: DryRun = False,
    page: Page = False,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fixed depths, lookup, thresholds, tables and price-driven schedulers by concurrency. Goes on where --out ends."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench.speculation import ARMS, Grid, measure_speculation, planned, write_page

    grid = Grid(
        arms=tuple(dict.fromkeys(arm or ARMS)),
        concurrencies=tuple(sorted(set(concurrency or (1, 2, 4, 8, 16, 32, 64)))),
        temperatures=tuple(dict.fromkeys(temperature or (0.0, 1.0))),
        domain_concurrencies=tuple(sorted({1, 8, 64} if domain_concurrency is None else {*domain_concurrency} - {0})),
        repetitions=repetitions,
        per_stream=requests_per_stream,
        least_requests=least_requests,
        max_tokens=max_tokens,
        verification=_verification(verification),
    )
    if dry_run:
        typer.echo(planned(setup, grid))
        return
    check_page(page, out)
    with saying() as say, made_ready(setup, heavier, one_token_drafter) as (ready, one_token):
        report = measure_speculation(
            ready, grid, name=name_of(setup, heavier), command=command(), one_token=one_token, out=out,
            pictures=page, say=say,
        )  # fmt: skip
    finish(report, None, as_json)
    if page and out is not None:
        typer.echo(f"{write_page(out.parent)} is written anew", err=True)


@app.command()
def speculation_open(
    cv: Annotated[
        list[float] | None, typer.Option(min=0.01, help="Of gamma gaps, 1 is Poisson; repeatable; 1 and 2 if absent.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests per second; found beforehand if absent.")
    ] = None,
    pace_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Of the tight tier, per token; found beforehand if absent.")
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, help="The rate found is this part of what the engine answers at full width.")
    ] = 0.7,
    tight: Annotated[float, typer.Option(min=0.01, max=1.0, help="Part of requests that have a pace to keep.")] = 0.3,
    duration_s: Annotated[float, typer.Option(min=0.1, help="Of arrivals.")] = 10.0,
    warm_up_s: Annotated[float, typer.Option(min=0.0, help="From their beginning, not counted.")] = 2.0,
    drain_s: Annotated[float, typer.Option(min=0.0, help="After the last arrival; then the rest is given up.")] = 10.0,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of every request.")] = 0.0,
    streams: Annotated[int, typer.Option(min=1, help="Requests that run at a time; others wait.")] = 64,
    arm: Arm = None,
    one_token_drafter: OneToken = None,
    heavier: Heavier = 0,
    max_tokens: Annotated[int, typer.Option(min=2, help="Output tokens per request at most.")] = 96,
    repetitions: Repetitions = 3,
    page: Page = False,
    model: Model = "pro",
    target: Target = None,
    drafter: Drafter = None,
    threads: Threads = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    held_out: HeldOut = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Mixed tiers as they arrive: who keeps the tight tier's pace, and what it costs. Goes on where --out ends."""
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench.speculation import OPEN_ARMS, Load, measure_tiers, write_page

    load = Load(
        arms=tuple(dict.fromkeys(arm or OPEN_ARMS)),
        cvs=tuple(dict.fromkeys(cv or (1.0, 2.0))),
        temperature=temperature,
        duration_s=duration_s,
        warm_up_s=warm_up_s,
        drain_s=drain_s,
        tight_share=tight,
        max_tokens=max_tokens,
        streams=streams,
        repetitions=repetitions,
    )
    check_page(page, out)
    with saying() as say, made_ready(setup, heavier, one_token_drafter) as (ready, one_token):
        report = measure_tiers(
            ready, load, name=name_of(setup, heavier), command=command(), one_token=one_token, utilisation=utilisation,
            rate_per_s=rate, pace_s=None if pace_ms is None else pace_ms / 1e3, out=out, say=say,
        )  # fmt: skip
    finish(report, None, as_json)
    if page and out is not None:
        typer.echo(f"{write_page(out.parent)} is written anew", err=True)


def _verification(name: str) -> Verification:
    """Raises ConfigurationError for a rule that there is not."""
    if name not in get_args(Verification):
        raise ConfigurationError(f"--verification is coupled or rejection, not {name}", param="verification")
    return cast(Verification, name)


def check_page(page: bool, out: Path | None) -> None:
    """Whether a page can be written, asked before anything is measured. Raises ConfigurationError, MissingExtra."""
    if not page:
        return
    if out is None:
        raise ConfigurationError("--page shows what is in a folder: give --out FOLDER/NAME.json with it", param="out")
    from outrider.bench.speculation.pictures import require_matplotlib

    require_matplotlib()


@contextmanager
def made_ready(setup: Setup, layers: int, one_token: Path | None) -> Iterator[tuple[Setup, Path | None]]:
    """The setup and γ = 1 drafter of a target with so many idle layers more, in a folder that goes afterwards.

    A drafter kept without its target's matrices gets them back.
    """
    from outrider.bench.heavier import adapted_drafter, heavier
    from outrider.bench.one_token import is_kept, make_whole

    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder:
        if one_token is not None and is_kept(one_token):
            one_token = make_whole(one_token, setup.target, Path(folder) / f"{one_token.name}-whole")
        if layers == 0:
            yield setup, one_token
            return
        place = Path(folder) / f"{setup.target.name}-{layers}"
        heavy = heavier(setup.target, place, layers=layers, drafter=setup.drafter)
        if one_token is not None:
            one_token = adapted_drafter(one_token, Path(folder) / f"{one_token.name}-{layers}", layers)
        yield replace(setup, target=heavy, drafter=heavy.with_name(f"{heavy.name}-drafter")), one_token


def name_of(setup: Setup, layers: int) -> str:
    """The target as a page's headline has it."""
    return setup.target.name + (f" with {layers} idle layers" if layers else "")


def command() -> str:
    """What was typed, without where the program lies."""
    return "outrider " + shlex.join(sys.argv[1:])
