"""`outrider bench classes`: the batch classes of a policy on one engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.bench_options import (
    Device,
    Drafter,
    Dtype,
    HeldOut,
    Json,
    MaxTokens,
    Model,
    Out,
    Repetitions,
    Streams,
    Target,
    Threads,
    finish,
    open_setup,
    saying,
)
from outrider.errors import ConfigurationError
from outrider.policy import load_policy

__all__ = ["app"]

app = typer.Typer()


@app.command()
def classes(
    policy: Annotated[Path, typer.Option(help="Whose batch classes to measure.")] = Path("policies/default.yaml"),
    batch_class: Annotated[list[str] | None, typer.Option(help="Repeatable; all of the policy's if absent.")] = None,
    streams: Streams = 64,
    max_tokens: MaxTokens = 64,
    repetitions: Repetitions = 5,
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
    """What each batch class buys and gives away: TTFT, TPOT and throughput with its like, and in mixed company."""
    known = load_policy(policy).batch_classes
    if unknown := set(batch_class or ()) - set(known):
        raise ConfigurationError(
            f"{policy} has no batch class {min(unknown)}; there are {', '.join(known)}", param="batch_class"
        )
    setup = open_setup(model, target, drafter, threads, dtype, device, held_out)
    from outrider.bench import measure_classes

    with saying() as say:
        report = measure_classes(
            setup, classes=[known[name] for name in batch_class or known], streams=streams, max_tokens=max_tokens,
            repetitions=repetitions, say=say,
        )  # fmt: skip
    finish(report, out, as_json)
