"""`outrider draft train|eval|calibrate|export|report`: the stages after the cache, for one drafter or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.draft import Json, RecipePath, Restart, finish, run_stage

if TYPE_CHECKING:
    from outrider.training.recipe import Recipe

__all__ = ["app"]

app = typer.Typer(add_completion=False)

Name = Annotated[
    str,
    typer.Option("--name", help="Another drafter over the same features: its folders are drafter-NAME and so on."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field of the recipe for this call, such as drafter.kind=dflash; repeatable."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: CUDA where there is a device.")]


def _load(path: Path, changes: list[str] | None) -> Recipe:
    from outrider.training.overrides import override
    from outrider.training.recipe import load_recipe

    recipe = load_recipe(path)
    return override(recipe, changes) if changes else recipe


def _folder(recipe: Recipe, kind: str, name: str, label: str = "") -> Any:
    from outrider.training.artifacts import Artifact

    return Artifact(recipe.output, kind, name, label).directory


@app.command()
def train(
    recipe: RecipePath,
    name: Name = "",
    changes: Changes = None,
    device: Device = "auto",
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Train the drafter on the target's answers."""
    from outrider.training.train_stage import train_stage

    loaded = _load(recipe, changes)
    manifest = run_stage(lambda: train_stage(loaded, variant=name, restart=restart, device=device), loaded.output)
    finish(manifest, _folder(loaded, "drafter", name), as_json)


@app.command(name="eval")
def evaluate(
    recipe: RecipePath,
    name: Name = "",
    changes: Changes = None,
    prompts: Annotated[
        list[Path] | None, typer.Option("--prompts", help="Prompt files to use instead of the held-out ones.")
    ] = None,
    label: Annotated[str, typer.Option("--label", help="Names an evaluation of other prompts: evaluation-LABEL.")] = "",
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Measure the drafter, the baselines and what the recipe compares with on held-out answers."""
    from outrider.training.drafter_eval import eval_stage

    loaded = _load(recipe, changes)
    if prompts and not label:
        raise typer.BadParameter("--prompts needs --label, so that the held-out evaluation is kept")
    files = [file.absolute() for file in prompts or ()]
    work = lambda: eval_stage(loaded, variant=name, label=label, prompts=files, restart=restart)  # noqa: E731
    finish(run_stage(work, loaded.output), _folder(loaded, "evaluation", name, label), as_json)


@app.command()
def calibrate(
    recipe: RecipePath,
    name: Name = "",
    changes: Changes = None,
    label: Annotated[str, typer.Option("--label", help="Take the rounds of evaluation-LABEL.")] = "",
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Fit temperatures to the drafter's confidences on some held-out prompts and judge them on the others."""
    from outrider.training.calibrate import calibrate_stage

    loaded = _load(recipe, changes)
    manifest = run_stage(lambda: calibrate_stage(loaded, variant=name, label=label, restart=restart), loaded.output)
    finish(manifest, _folder(loaded, "calibration", name), as_json)


@app.command()
def export(
    recipe: RecipePath,
    name: Name = "",
    changes: Changes = None,
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Put drafter, calibration and a card into one directory to serve from."""
    from outrider.training.export import export_stage

    loaded = _load(recipe, changes)
    manifest = run_stage(lambda: export_stage(loaded, variant=name, restart=restart), loaded.output)
    finish(manifest, _folder(loaded, "export", name), as_json)


@app.command()
def report(
    recipe: RecipePath,
    name: Name = "",
    changes: Changes = None,
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="Add the tables of evaluation-LABEL; repeatable.")
    ] = None,
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Write tables and plots of an evaluation and its calibration."""
    from outrider.training.report import report_stage

    loaded = _load(recipe, changes)
    manifest = run_stage(
        lambda: report_stage(loaded, variant=name, labels=labels or (), restart=restart), loaded.output
    )
    finish(manifest, _folder(loaded, "report", name), as_json)
