"""`outrider spend`: who spent what on what, and what a completed workflow costs."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from outrider.accounting import (
    Only,
    Span,
    SpendQuery,
    WorkflowQuery,
    read_spend,
    read_workflow_spend,
    reading,
    zone_called,
)
from outrider.cli.evals_show import make_console
from outrider.cli.operator import ask_operator
from outrider.cli.spend_show import show_spend, show_workflows
from outrider.errors import InvalidRequest

__all__ = ["app"]

app = typer.Typer(help="Who spent what, and what a completed workflow costs.", add_completion=False)

DATABASE = "sqlite:///.outrider/outrider.db"
UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

Tenant = Annotated[str | None, typer.Option(help="Only this tenant.")]
Team = Annotated[str | None, typer.Option(help="Only this team.")]
Workflow = Annotated[str | None, typer.Option(help="Only this workflow.")]
Since = Annotated[str, typer.Option(help="How far back (90m, 24h, 7d, 4w) or from when (2026-11-01, with T10:30).")]
Until = Annotated[str | None, typer.Option(help="Up to when; now if absent. Takes what --since takes.")]
TimeZone = Annotated[str, typer.Option(help="Whose days and times are meant and shown.")]
Url = Annotated[str | None, typer.Option(help="Ask a running platform instead, such as http://127.0.0.1:8000.")]
KeyFile = Annotated[Path | None, typer.Option(help="Operator's key for --url; else OUTRIDER_OPERATOR_KEY.")]
Database = Annotated[str, typer.Option(help="The ledger, read only.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def spend(
    context: typer.Context,
    by: Annotated[str | None, typer.Option(help="tenant, team, model, tag, day or workflow.")] = None,
    tenant: Tenant = None,
    team: Team = None,
    workflow: Workflow = None,
    since: Since = "30d",
    until: Until = None,
    time_zone: TimeZone = "UTC",
    database: Database = DATABASE,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """What was spent. By tenant, or by model where one tenant or workflow is named."""
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    only = Only(tenant, team, workflow)
    split = by or ("tenant" if tenant is None and workflow is None else "model")
    query = SpendQuery(_span(since, until, time_zone, time.time()), split, only, time_zone)  # type: ignore[arg-type]  # checks
    if url:
        asked = _params(query.span, query.only) | {"by": query.by, "time_zone": time_zone}
        found = ask_operator(url, "/v1/outrider/spend", asked, key_file)
    else:
        with reading(database) as connection:
            found = read_spend(connection, query).to_json()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        show_spend(found, zone_called(time_zone), make_console())


@app.command()
def workflows(
    by: Annotated[str, typer.Option(help="tenant, team, tag or model.")] = "tenant",
    tenant: Tenant = None,
    team: Team = None,
    workflow: Workflow = None,
    since: Since = "30d",
    until: Until = None,
    time_zone: TimeZone = "UTC",
    top: Annotated[int, typer.Option(min=0, max=1000, help="How many of the dearest to list.")] = 10,
    database: Database = DATABASE,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """What a completed workflow costs, failed attempts included. A workflow counts when its first request started."""
    only = Only(tenant, team, workflow)
    query = WorkflowQuery(_span(since, until, time_zone, time.time()), by, only, top)  # type: ignore[arg-type]  # checks
    if url:
        asked = _params(query.span, only) | {"by": by, "top": str(top)}
        found = ask_operator(url, "/v1/outrider/spend/workflows", asked, key_file)
    else:
        with reading(database) as connection:
            found = read_workflow_spend(connection, query).to_json()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        show_workflows(found, zone_called(time_zone), make_console())


def _refuse_options(context: typer.Context) -> None:
    """Options before the subcommand would be dropped without a word."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"options stand after '{context.invoked_subcommand}'")


def _params(span: Span, only: Only) -> dict[str, str]:
    return {"start_time": str(span.since_s), "end_time": str(span.until_s), **only.columns}


def _span(since: str, until: str | None, time_zone: str, now_s: float) -> Span:
    zone = zone_called(time_zone)
    return Span(moment_s(since, zone, now_s), now_s if until is None else moment_s(until, zone, now_s))


def moment_s(text: str, zone: ZoneInfo, now_s: float) -> float:
    """Seconds of the epoch of `7d` (ago) or of a date with or without a time in a zone. Raises InvalidRequest."""
    ago = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if ago:
        return max(0.0, now_s - int(ago[1]) * UNITS_S[ago[2]])
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{text!r} is no time; write 90m, 24h, 7d, 4w, 2026-11-01 or 2026-11-01T10:30") from None
