"""What `policy explain` reads and prints."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outrider.errors import ConfigurationError
from outrider.policy import Policy
from outrider.routing import as_record, records
from outrider.telemetry import EventLog
from outrider.types import Decision, LoadSnapshot

__all__ = ["idle_snapshots", "print_decision", "read_snapshots", "recorded_decision"]

_PIPE_WIDTH = 140
_NOMINAL_CURVE = tuple((tokens, 0.008 + 0.0005 * tokens) for tokens in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
_NOMINAL_ACCEPTANCE = (1.0, 1.6, 2.0, 2.3, 2.5, 2.6, 2.7, 2.75)


def idle_snapshots(policy: Policy) -> dict[str, list[LoadSnapshot]]:
    """A ready, idle replica of every model, all on one nominal curve: compares depths and classes, not machines."""
    return {
        name: [
            LoadSnapshot(
                model=name,
                replica=f"{name}-nominal",
                epoch=0,
                time_s=0.0,
                curve_version="nominal",
                step_curve=_NOMINAL_CURVE,
                draft_s=0.003,
                acceptance_tokens=_NOMINAL_ACCEPTANCE,
                drafter_ready=True,
                context_tokens=1_000_000,
                max_running_requests=64,
            )
        ]
        for name in policy.models
    }


def read_snapshots(path: Path) -> dict[str, list[LoadSnapshot]]:
    """Load snapshots by model from JSON: one, or a list of one per replica.

    Raises ConfigurationError when the file is not that.
    """
    Raw = dict[str, object]
    try:
        read = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Raw] | Raw])
        raw = {name: each if isinstance(each, list) else [each] for name, each in read.items()}
        known = {field.name for field in fields(LoadSnapshot)}
        strange = sorted({name for replicas in raw.values() for snapshot in replicas for name in snapshot} - known)
        if strange:
            raise ConfigurationError(f"{path}: unknown fields of a load snapshot: {', '.join(strange)}")
        return msgspec.convert(raw, dict[str, list[LoadSnapshot]])
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not load snapshots by model: {error}") from error


def recorded_decision(path: Path, decision_id: str) -> Decision:
    """A decision from the event log. Raises ConfigurationError when log or decision is absent."""
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such event log")
    event = EventLog(path).find(decision_id)
    if event is None:
        raise ConfigurationError(f"{path}: no decision {decision_id}")
    if event.decision is None:
        detail = f"refused with {event.outcome.status} {event.outcome.error_code}"
        raise ConfigurationError(f"{path}: request {event.request_id} was {detail}; nothing was decided")
    return event.decision


def print_decision(decision: Decision, as_json: bool) -> None:
    """The candidates as a table, best first, then the reasons; or all of it as JSON."""
    if as_json:
        typer.echo(json.dumps(as_record(decision), indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    console.print(_table(decision))
    for reason in decision.reasons:
        console.print(Text(f"• {reason}"), highlight=False)
    console.print(Text(f"policy {decision.policy_version}, decision {decision.decision_id}"), style="dim")


def _table(decision: Decision) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    late = f"p{decision.quantile * 100:g}"
    for header in ("", "model", "replica", "depth", "class", "TTFT ms", late, "TPOT ms", late, "whole s", late, "USD",
                   "quality", ""):  # fmt: skip
        left = header in ("", "model", "replica", "class")
        table.add_column(header, justify="left" if left else "right", no_wrap=bool(header))
    for rank, candidate in enumerate(records(decision.candidates), start=1):
        is_open = bool(candidate["feasible"])
        table.add_row(
            str(rank) if is_open else "–",
            Text(str(candidate["model"])),
            Text(str(candidate["replica"] or "")),
            _cell(candidate["depth_cap"], "d"),
            Text(str(candidate["batch_class"] or "")),
            _cell(candidate["ttft_s"], ".1f", 1e3),
            _cell(candidate["quantile_ttft_s"], ".1f", 1e3),
            _cell(candidate["tpot_s"], ".2f", 1e3),
            _cell(candidate["quantile_tpot_s"], ".2f", 1e3),
            _cell(candidate["e2e_s"], ".2f"),
            _cell(candidate["quantile_e2e_s"], ".2f"),
            _cell(candidate["cost_usd"], ".8f"),
            _cell(candidate["quality"], ".2f"),
            Text("chosen" if rank == 1 else str(candidate["why_not"] or "")),
            style="bold green" if rank == 1 else None if is_open else "dim",
        )
    return table


def _cell(value: object, form: str, scale: float = 1) -> str:
    """A number, or nothing where a closed model has none."""
    return format(value * scale, form) if isinstance(value, int | float) else ""
