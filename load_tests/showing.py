"""From a command's options to its report on the screen and in a file; refusals as one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import typer
from rich.console import Console

from outrider.bench.report import Report
from outrider.bench.spread import Say
from outrider.errors import OutriderError

__all__ = ["show"]


def show(
    what: str, measured: Callable[[Say], Report], out: Path | None, *, as_json: bool, width: int | None = None
) -> None:
    """Measure, write, print; ends the command with 1 where something typed was raised."""
    try:
        with Console(stderr=True).status(what) as status:
            report = measured(status.update)
        if out is not None:
            report.write(out)
    except OutriderError as error:
        typer.echo(f"load test: {error.message}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        report.show(Console(width=width))
