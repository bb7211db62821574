"""`outrider profile`: what a round's parts cost on this machine, as a table and as a file that serving can read."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider import demo_models
from outrider.errors import ConfigurationError, CurveError

if TYPE_CHECKING:
    from outrider.scheduling import CostModel

__all__ = ["app"]

app = typer.Typer(help="Measure what a round's parts cost on this machine.")

_DEMO_PREFIX = "demo:"
_DTYPES = ("float32", "bfloat16", "float16")
_LINKS = ("in-process", "process")


@app.command()
def profile(
    target: Annotated[str, typer.Argument(help="Target directory, or demo:flash, demo:pro.")],
    drafter: Annotated[str | None, typer.Option(help="Its drafter, likewise; drafts are measured, too.")] = None,
    link: Annotated[
        str, typer.Option(help="Where the drafter runs: in-process or process, as in serving.")
    ] = "process",
    requests: Annotated[int, typer.Option(min=1, help="Most requests that run at a time.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of every process.")] = 1,
    dtype: Annotated[str, typer.Option(help=f"{', '.join(_DTYPES)}.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Also write a file for a deployment's `cost_profile`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """T_verify by tokens and context, T_draft by requests, catching up and transfer; takes a few seconds."""
    for name, value, known in (("dtype", dtype, _DTYPES), ("link", link, _LINKS), ("device", device, ("cpu", "cuda"))):
        if value not in known:
            raise ConfigurationError(f"--{name} is one of {', '.join(known)}, not {value}", param=name)
    costs, configuration = _measure(
        _directory(target), None if drafter is None else _directory(drafter), link, requests, threads, dtype, device
    )
    if out is not None:
        from outrider.scheduling import write_costs

        write_costs(out, costs, configuration)
    if as_json:
        from outrider.scheduling import costs_document

        print(json.dumps(costs_document(costs, configuration), indent=2))
    else:
        _show(costs, configuration)


def _directory(location: str) -> Path:
    if location.startswith(_DEMO_PREFIX):
        return demo_models.path(location.removeprefix(_DEMO_PREFIX))
    return Path(location)


def _measure(
    target: Path, drafter: Path | None, link: str, requests: int, threads: int, dtype: str, device: str
) -> tuple[CostModel, dict[str, Any]]:
    """Measured costs and their circumstances. Torch is imported here: its thread pool reads the wait policy then."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from transformers.utils import logging

    from outrider.bench.setup import surroundings
    from outrider.engine import EngineSettings
    from outrider.local import LinkKind, open_engine
    from outrider_kernels import BuildError, library

    logging.disable_progress_bar()
    with suppress(BuildError):
        library()  # costs are to be those of the step that serving ends up with
    torch.set_num_threads(threads)
    settings = EngineSettings(target.name, max_running_requests=requests, draft_timeout_s=10.0)
    with open_engine(
        target, drafter, link=LinkKind(link), settings=settings, dtype=getattr(torch, dtype), device=device
    ) as local:
        costs = local.engine.costing.costs
    if drafter is not None and costs.draft is None:
        raise CurveError(f"drafts of {drafter.name} could not be measured; its context may be too short", param="draft")
    configuration = {"target": target.name, "drafter": drafter.name if drafter else None, "max_requests": requests}
    return costs, {**configuration, **surroundings()}


def _show(costs: CostModel, configuration: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    contexts = [context for context, _ in costs.verify]
    verify = Table("tokens", *(f"context {context}" for context in contexts), title="T_verify, ms")
    for place, tokens in enumerate(costs.verify[0][1].tokens):
        verify.add_row(str(tokens), *(f"{curve.seconds[place] * 1e3:.2f}" for _, curve in costs.verify))
    console.print(verify)
    if costs.draft is not None:
        draft = Table("requests", "ms", title="T_draft, round trip")
        for requests, seconds in costs.draft.points():
            draft.add_row(str(requests), f"{seconds * 1e3:.2f}")
        console.print(draft)
        console.print(f"a context row to catch up {costs.append_row_s * 1e6:.1f} µs", highlight=False)
        console.print(f"transfer, one request {costs.transfer_s * 1e3:.2f} ms", highlight=False)
    if (subject := costs.subject) is not None:
        where = f"{subject.link}, {subject.drafter_role}" if subject.drafter else "none"
        console.print(
            f"target {configuration['target']} ({subject.target_role}, {subject.step_kind} step), "
            f"drafter {configuration['drafter'] or 'none'} ({where}), {subject.cpu}, "
            f"load {configuration['load_average'][0]}, version {costs.version}",
            highlight=False,
        )
