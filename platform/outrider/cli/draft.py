"""`outrider draft`: from a target directory and a prompt file to a calibrated drafter, stage by stage."""

from __future__ import annotations

import errno
import importlib.util
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.errors import ConfigurationError, NotEnoughDisk, OutputNotWritable, OutriderError

if TYPE_CHECKING:
    from outrider.training.artifacts import Manifest

__all__ = ["Json", "RecipePath", "Restart", "app", "finish", "run_stage"]

app = typer.Typer(
    help="Make a drafter for a target. Each stage reads one recipe, goes on where it stopped, and skips what is done.",
    no_args_is_help=True,
    add_completion=False,
)

RecipePath = Annotated[Path, typer.Option("--recipe", help="The run's YAML file; `outrider draft init` writes one.")]
Restart = Annotated[bool, typer.Option("--restart", help="Start over; what is there is kept as NAME.old.")]
Json = Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")]

_INTERRUPTED = 130
_REFUSED_BY_SYSTEM = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EDQUOT,
)  # fmt: skip


def run_stage(work: Callable[[], Manifest], output: Path) -> Manifest:
    """Do a stage's work below `output`; Ctrl-C ends it with exit code 130 and says how to go on.

    Raises NotEnoughDisk and OutputNotWritable for what the system says of files that no stage speaks about itself.
    """
    _quiet_libraries()
    try:
        return work()
    except OSError as error:
        raise _explained(error, output) from error
    except KeyboardInterrupt:
        typer.echo("stopped; what is finished is kept: resume with the same command", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _explained(error: OSError, output: Path) -> Exception:
    """An error of the file system with what to do about it; any other as it is."""
    if error.errno == errno.ENOSPC:
        return NotEnoughDisk(
            f"{output}: the disk is full; what is finished is kept: free some space, then the same command goes on"
        )
    if error.errno in _REFUSED_BY_SYSTEM and error.filename:
        return OutputNotWritable(
            f"{error.filename}: {error.strerror}; make the recipe's `output` a folder that can be written, with files "
            "that can be read"
        )
    return error


def _quiet_libraries() -> None:
    """No bars of transformers beside our own progress, and no advice about a norm that was measured not to matter."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")


def finish(manifest: Manifest, directory: Path, as_json: bool) -> None:
    """Print what a stage left."""
    if as_json:
        typer.echo(json.dumps({**asdict(manifest), "hash": manifest.hash, "directory": str(directory)}, indent=2))
        return
    typer.echo(f"{manifest.kind}: {directory} ({manifest.hash[:12]})")
    for line in _lines(manifest.figures):
        typer.echo(f"  {line}")


def _lines(figures: dict[str, Any], depth: int = 0) -> list[str]:
    """Figures as indented lines; the plain values of a mapping share its line, mappings in it follow below."""
    lines = []
    for name, value in figures.items():
        if not isinstance(value, dict):
            lines.append(f"{'  ' * depth}{name}: {_shown(value)}")
            continue
        plain = ", ".join(f"{key} {_shown(each)}" for key, each in value.items() if not isinstance(each, dict))
        lines.append(f"{'  ' * depth}{name}: {plain}" if plain else f"{'  ' * depth}{name}")
        lines += _lines({key: each for key, each in value.items() if isinstance(each, dict)}, depth + 1)
    return lines


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


@app.command()
def init(
    target: Annotated[Path, typer.Option(help="Local directory of the model to draft for.")],
    prompts: Annotated[Path, typer.Option(help="JSONL or Parquet file of prompts.")],
    recipe: Annotated[Path, typer.Option("--recipe", help="Where to write the recipe.")] = Path("recipe.yaml"),
    output: Annotated[Path | None, typer.Option(help="Where artifacts go; the default is drafts/TARGET.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where the recipe is as JSON.")] = False,
) -> None:
    """Write a commented recipe with sensible values for a target."""
    from outrider.training.recipe import load_recipe
    from outrider.training.sketch import sketch_recipe
    from outrider.training.subject import open_subject

    if recipe.exists():
        raise ConfigurationError(f"{recipe} exists; remove it, or name another with --recipe")
    text = sketch_recipe(target, prompts, output or Path("drafts") / target.absolute().name, recipe)
    try:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputNotWritable(f"{recipe}: {error.strerror}; write the recipe somewhere else with --recipe") from error
    try:
        open_subject(load_recipe(recipe))
    except OutriderError:
        recipe.unlink()  # no edit of it would make a drafter for this target
        raise
    following = f"outrider draft prepare --recipe {recipe}"
    typer.echo(
        json.dumps({"recipe": str(recipe), "next": following}) if as_json else f"wrote {recipe}; next: {following}"
    )


@app.command()
def prepare(recipe: RecipePath, restart: Restart = False, as_json: Json = False) -> None:
    """Read prompts, drop near-duplicates and what does not fit, and split them by source document."""
    from outrider.training.prepare import prepare as work
    from outrider.training.recipe import load_recipe

    loaded = load_recipe(recipe)
    finish(run_stage(lambda: work(loaded, restart=restart), loaded.output), loaded.output / "prompts", as_json)


@app.command()
def regenerate(recipe: RecipePath, restart: Restart = False, as_json: Json = False) -> None:
    """Let the target answer every prompt, batched, with a recorded seed for each."""
    from outrider.training.recipe import load_recipe
    from outrider.training.regenerate import regenerate as work

    loaded = load_recipe(recipe)
    finish(run_stage(lambda: work(loaded, restart=restart), loaded.output), loaded.output / "answers", as_json)


@app.command()
def cache(recipe: RecipePath, restart: Restart = False, as_json: Json = False) -> None:
    """Store the target's states over its answers, or check that training can compute them on the fly."""
    from outrider.training.cache import cache as work
    from outrider.training.recipe import load_recipe

    loaded = load_recipe(recipe)
    finish(run_stage(lambda: work(loaded, restart=restart), loaded.output), loaded.output / "features", as_json)


def _mount_training() -> None:
    """Add the commands after the cache, which live in `outrider.cli.draft_train`."""
    if importlib.util.find_spec("outrider.cli.draft_train") is not None:
        from outrider.cli import draft_train

        app.registered_commands.extend(draft_train.app.registered_commands)


_mount_training()
