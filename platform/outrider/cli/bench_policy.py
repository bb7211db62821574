"""`outrider bench policy`: what a policy's size costs."""

from __future__ import annotations

from typing import Annotated

import typer

from outrider.cli.bench_options import Json, Out, Repetitions, finish, saying

__all__ = ["app"]

app = typer.Typer()


@app.command()
def policy(
    tenants: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 10, 100, 1000 if absent.")] = None,
    teams: Annotated[int, typer.Option(min=0, help="Files beside the platform's.")] = 9,
    repetitions: Repetitions = 7,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Loading a policy, and finding a request's tenant and route in it, by the number of tenants."""
    from outrider.bench.policy import measure_policy

    with saying() as say:
        report = measure_policy(tenants=tenants or [10, 100, 1000], teams=teams, repetitions=repetitions, say=say)
    finish(report, out, as_json)
