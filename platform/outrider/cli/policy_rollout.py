"""`outrider policy apply|rollback|history`: change the policy of a running platform, and see who did."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outrider.cli.operator import ask_operator, tell_operator
from outrider.errors import PolicyError
from outrider.policy.sources import read_sources

__all__ = ["apply", "history", "rollback"]

PATH = "/v1/outrider/policy"
_WIDTH = 140

Url = Annotated[str, typer.Option(help="The running platform.", envvar="OUTRIDER_URL")]
KeyFile = Annotated[Path | None, typer.Option(help="File with the operator's key, else OUTRIDER_OPERATOR_KEY.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HERE = "http://127.0.0.1:8000"


def apply(
    file: Annotated[Path, typer.Argument(help="The platform's YAML, or a directory with platform.yaml and teams/.")],
    teams: Annotated[list[Path] | None, typer.Argument(help="Teams' YAML files, or a directory of them.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    expected_version: Annotated[int | None, typer.Option(help="Refuse if another version is in force.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    url: Url = HERE,
    key_file: KeyFile = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put a policy in force on every gateway at once, or on none. Exit code 1 when it is refused, 3 if you said no."""
    sources, problems = read_sources(file, teams or ())
    if problems:
        raise PolicyError("\n".join(map(str, problems)))
    documents = [{"file": each.file, "text": each.text} for each in sources]
    before = ask_operator(url, PATH, {}, key_file)
    proposal = tell_operator(url, f"{PATH}/check", {"documents": documents}, key_file)
    if proposal["problems"]:
        raise PolicyError("\n".join(_problem(each) for each in proposal["problems"]))
    if dry_run or not as_json:
        _show_proposal(proposal, as_json=as_json)
    if dry_run:
        return
    if not reason:
        raise typer.BadParameter("say why: --reason '…'; it is kept in the history")
    if not (yes or as_json) and sys.stdin.isatty() and not typer.confirm("apply?"):
        raise typer.Exit(3)
    change = {"reason": reason, "expected_version": expected_version or before["number"]}
    applied = tell_operator(url, f"{PATH}/apply", {"documents": documents, **change}, key_file)
    _show_applied(applied, as_json=as_json)


def rollback(
    version: Annotated[int | None, typer.Argument(help="Number of a version; the one before if absent.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    url: Url = HERE,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Bring an earlier version back, as a new one."""
    if not reason:
        raise typer.BadParameter("say why: --reason '…'; it is kept in the history")
    applied = tell_operator(url, f"{PATH}/rollback", {"reason": reason, "version": version}, key_file)
    if not as_json:
        _show_proposal(applied["proposal"], as_json=False)
    _show_applied(applied, as_json=as_json)


def history(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    audit: Annotated[bool, typer.Option("--audit", help="Everything that was done or refused.")] = False,
    url: Url = HERE,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Every version that was in force: when, by whom and why."""
    found = ask_operator(url, f"{PATH}/history", {"limit": str(limit)}, key_file)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif audit:
        _print(("when", "who", "what", "version", "why", "detail"), [_audited(each) for each in found["audit"]])
    else:
        _print(("version", "when", "by", "how", "digest", "why"), [_versioned(each) for each in found["versions"]])


def _versioned(version: Mapping[str, Any]) -> tuple[str, ...]:
    how = f"rollback to {version['restores']}" if version["restores"] else version["action"]
    return (
        str(version["number"]),
        _when(version["time_s"]),
        version["author"],
        how,
        version["digest"],
        version["reason"],
    )


def _audited(entry: Mapping[str, Any]) -> tuple[str, ...]:
    number = "" if entry["number"] is None else str(entry["number"])
    return _when(entry["time_s"]), entry["actor"], entry["action"], number, entry["reason"], entry["detail"]


def _when(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _show_proposal(proposal: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(proposal, indent=2))
        return
    for warning in proposal["warnings"]:
        typer.echo(f"warning: {_problem(warning)}", err=True)
    for sentence in proposal["sentences"] or ["nothing changes"]:
        typer.echo(sentence)


def _show_applied(applied: Mapping[str, Any], *, as_json: bool) -> None:
    version = applied["version"]
    if as_json:
        typer.echo(json.dumps(applied, indent=2))
    else:
        typer.echo(f"version {version['number']} ({version['digest']}) is in force on every gateway")


def _problem(problem: Mapping[str, Any]) -> str:
    place = f"{problem['file']}:{problem['line']}:{problem['column']}: "
    return place + (f"{problem['field']}: {problem['message']}" if problem["field"] else problem["message"])
