"""`outrider models`: list the demo models that are installed, or make them again from nothing."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider import demo_models
from outrider.errors import ModelDirectoryError

__all__ = ["app"]

app = typer.Typer(help="Demo models: list what is installed, build them from nothing.", no_args_is_help=True)


@app.command("build")
def build(
    only: Annotated[str | None, typer.Option(help="flash, pro, flash-drafter or pro-drafter.")] = None,
    out: Annotated[Path, typer.Option(help="Where finished models go.")] = Path("runs/demo-models"),
    work: Annotated[Path, typer.Option(help="Where checkpoints and stamps live.")] = Path("runs/build"),
    scale: Annotated[float, typer.Option(min=0.001, max=1.0, help="Share of the full effort.")] = 1.0,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Forget earlier work, or go on from it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON at the end.")] = False,
) -> None:
    """Make text, tokenizer, targets, drafters, evals and model card; resumes where it was stopped."""
    from outrider.training.build import PARTS, Builder

    if only is not None and only not in PARTS:
        raise typer.BadParameter(f"choose from {', '.join(PARTS)}", param_hint="--only")
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    figures = Builder(
        out, work, scale, log=lambda line: print(line, file=sys.stderr, flush=True), examine=partial(_examine, scale)
    ).run(only)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"models are in {out}")


def _examine(scale: float, name: str, target: Path, drafter: Path, place: Path) -> dict[str, Any]:
    """Ask the shipped suites (a share of their items in a small build); the figures of each domain."""
    import asyncio
    from dataclasses import asdict

    from outrider.cli.evals import run_suites
    from outrider.cli.evals_local import LocalModel
    from outrider.evals import load_suite, shipped_suites, write_json

    suites = [load_suite(path) for path in shipped_suites()]
    limit = None if scale >= 1 else max(4, round(4 * scale * min(len(suite.items) for suite in suites)))
    options = {"limit": limit, "concurrency": 32, "prices": None, "give_up_after": 25}
    model = LocalModel(target, drafter, concurrency=32, threads=1, name=name)
    place.parent.mkdir(parents=True, exist_ok=True)
    result = asyncio.run(run_suites(model, suites, place.with_suffix(".jsonl"), options))
    write_json(place, result.as_dict())
    return {domain: asdict(summary) for domain, summary in result.domains.items()}


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Installed demo models with their sizes and their drafters' block sizes."""
    found = [row for name in ("flash", "pro") if (row := _describe(name))]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "parameters", "vocabulary", "context", "drafter γ", "directory")
    for row in found:
        table.add_row(
            row["name"], f"{row['parameters'] / 1e6:.2f} M", str(row["vocab_size"]), str(row["context_tokens"]),
            "none" if row["block_size"] is None else str(row["block_size"]), row["directory"],
        )  # fmt: skip
    Console().print(table)


def _describe(name: str) -> dict[str, Any] | None:
    """What config and weights say of a model, or None when it is not installed."""
    from safetensors import safe_open

    try:
        directory = demo_models.path(name)
    except ModelDirectoryError:
        return None
    config = json.loads((directory / "config.json").read_text("utf-8"))
    parameters = 0
    for shard in directory.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                size = 1
                for extent in tensors.get_slice(key).get_shape():
                    size *= extent
                parameters += size
    try:
        drafter = json.loads((demo_models.path(f"{name}-drafter") / "config.json").read_text("utf-8"))
    except ModelDirectoryError:
        drafter = {}
    return {
        "name": name,
        "parameters": parameters,
        "vocab_size": config["vocab_size"],
        "context_tokens": config["max_position_embeddings"],
        "block_size": drafter.get("block_size"),
        "directory": str(directory),
    }
