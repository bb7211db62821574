"""What the commands of `outrider bench` share: their options, the setup these make, and how a report is shown."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from outrider import demo_models
from outrider.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from outrider.bench import Report, Setup

__all__ = [
    "Device",
    "Drafter",
    "Dtype",
    "HeldOut",
    "Json",
    "MaxTokens",
    "Model",
    "Out",
    "Repetitions",
    "Streams",
    "Target",
    "Threads",
    "finish",
    "open_setup",
    "saying",
]

Model = Annotated[str, typer.Option(help="Demo model to measure: flash or pro.")]
Target = Annotated[Path | None, typer.Option(help="Target directory, instead of a demo model.")]
Drafter = Annotated[Path | None, typer.Option(help="Its drafter's directory.")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads of every process, the peer's as well.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
HeldOut = Annotated[Path | None, typer.Option(help="JSON lines of {domain, messages}, instead of the shipped ones.")]
Out = Annotated[Path | None, typer.Option(help="Also write the JSON form to this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
MaxTokens = Annotated[int, typer.Option(min=2, help="Output tokens per request.")]
Repetitions = Annotated[int, typer.Option(min=1, help="Repetitions of every arm.")]
Streams = Annotated[int, typer.Option(min=1, help="Requests at a time.")]
_SAID_EVERY_S = 10.0


def open_setup(
    model: str, target: Path | None, drafter: Path | None, threads: int, dtype: str, device: str,
    held_out: Path | None,
) -> Setup:  # fmt: skip
    """Resolve the options. Torch is imported here: its thread pool reads the wait policy when it is loaded."""
    if (target is None) != (drafter is None):
        raise ConfigurationError("give --target and --drafter together: one was made for the other", param="drafter")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigurationError(f"--dtype is float32 or bfloat16, not {dtype}", param="dtype")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from transformers.utils import logging

    from outrider.bench import Setup
    from outrider_kernels import BuildError, library

    logging.disable_progress_bar()
    with suppress(BuildError):
        library()  # what a warm cache would hold: a bench may wait for the compiler, serving never does

    torch.set_num_threads(threads)
    return Setup(
        target=target or demo_models.path(model),
        drafter=drafter or demo_models.path(f"{model}-drafter"),
        threads=torch.get_num_threads(),
        dtype=getattr(torch, dtype),
        device=device,
        held_out=held_out,
    )


@contextmanager
def saying() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being measured; a new one every ten seconds where that is no terminal."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("loading") as status:
            yield status.update
        return
    last_s = time.monotonic()

    def say(line: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _SAID_EVERY_S:
            last_s = time.monotonic()
            typer.echo(line, err=True)

    yield say


def finish(report: Report, out: Path | None, as_json: bool) -> None:
    if out is not None:
        report.write(out)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        console = Console()
        console.width = console.width if console.is_terminal else max(console.width, 140)
        report.show(console)
    if not report.passed:
        raise typer.Exit(1)
