"""One drafter run as a YAML file: target, data, drafter, training, evaluation and calibration.

Relative paths are taken from the recipe's folder. Sections are what a stage depends on: a stage's manifest keeps its
section, and a changed section makes its artifact (and only the ones made from it) stale.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from outrider.documents import Document, Problem, load_model
from outrider.errors import RecipeError

__all__ = [
    "AnswersSection",
    "CacheSection",
    "CalibrationSection",
    "DrafterSection",
    "EvaluationSection",
    "LossSection",
    "PromptsSection",
    "Recipe",
    "TrainingSection",
    "cross_problems",
    "load_recipe",
    "resolved",
]

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=10)]
Weight = Annotated[float, Field(ge=0, le=1_000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Place = Annotated[Path, Field(strict=False)]
Temperatures = Annotated[tuple[Temperature, ...], Field(strict=False, min_length=1, max_length=64)]


class _Section(BaseModel):
    """Frozen and strict: no unknown fields, no text for numbers, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PromptsSection(_Section):
    """What the target is asked. `dedupe_ngram` words make a shingle; a prompt that shares `dedupe_overlap` of its
    shingles with an earlier one is dropped. `heldout_percent` of the source documents are kept for evaluation.
    """

    files: Annotated[tuple[Place, ...], Field(strict=False, min_length=1)]
    heldout_percent: Annotated[int, Field(ge=0, le=50)] = 4
    dedupe_ngram: Annotated[int, Field(ge=1, le=64)] = 13
    dedupe_overlap: Annotated[float, Field(gt=0, le=1)] = 0.8
    max_prompt_tokens: Count = 1024
    limit: Count | None = None


class AnswersSection(_Section):
    """How the target answers: temperatures go round robin over the prompts; `drafter` speculates, if there is one."""

    max_new_tokens: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    temperatures: Temperatures = (1.0, 1.0, 1.0, 0.7, 0.0)
    limit: Count | None = None
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 32
    drafter: Place | None = None


class CacheSection(_Section):
    """Where training takes the target's states from: shards on disk, or computed when they are needed."""

    mode: Literal["disk", "on-the-fly"] = "disk"
    shard_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 34)] = 268_435_456


class DrafterSection(_Section):
    """The drafter's shape; heads and widths are the target's. `dflash` means no Markov and no confidence head.

    target_layer_ids: tapped layers, ascending, −1 for the embeddings; the target's last layer cannot be tapped.
    mask_token: text of a token that stands for what is to be drafted; null takes the first id that no token uses.
    """

    kind: Literal["dspark", "dflash"] = "dspark"
    layers: Annotated[int, Field(ge=1, le=64)] = 2
    block_size: Annotated[int, Field(ge=1, le=64)] = 7
    target_layer_ids: Annotated[tuple[Annotated[int, Field(ge=-1)], ...], Field(strict=False, min_length=1)]
    markov_head: Literal["vanilla", "gated", "rnn"] = "vanilla"
    markov_rank: Annotated[int, Field(ge=0, le=65_536)] = 128
    mask_token: str | None = None
    confidence: bool = True

    @model_validator(mode="before")
    @classmethod
    def _dflash_has_no_heads(cls, values: Any) -> Any:
        """What the kind implies need not be written."""
        if isinstance(values, dict) and values.get("kind") == "dflash":
            return {"markov_rank": 0, "confidence": False, **values}
        return values


class LossSection(_Section):
    """Weights of the three losses and the decay of slot weights exp(−(k−1)/decay)."""

    ce: Weight = 0.1
    tv: Weight = 0.9
    confidence: Weight = 1.0
    decay: Annotated[float, Field(gt=0, le=1_000)] = 4.0


class TrainingSection(_Section):
    """Effort and optimiser. `label` is what confidence learns: coupled match probability, or 1 − TV (rejection)."""

    steps: Count = 2000
    anchors_per_conversation: Count = 32
    anchors_per_step: Count = 256
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: Rate = 0.004
    head_learning_rate: Rate = 0.003
    warmup: Share = 0.04
    loss: LossSection = LossSection()
    label: Literal["coupled", "rejection"] = "coupled"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulation: Annotated[int, Field(ge=1, le=4096)] = 1
    checkpoint_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    warm_start: bool = True


class EvaluationSection(_Section):
    """What the drafter is measured on and against: baselines, other drafters of this target, a plain model."""

    temperatures: Temperatures = (0.0, 1.0)
    limit_per_domain: Count = 80
    max_new_tokens: Annotated[int, Field(ge=2, le=1_000_000)] = 200
    baselines: Annotated[tuple[Literal["prompt-lookup"], ...], Field(strict=False)] = ("prompt-lookup",)
    compare: Annotated[tuple[Place, ...], Field(strict=False)] = ()
    plain_model: Place | None = None


class CalibrationSection(_Section):
    """Sequential temperature scaling: `holdout` judges what the rest fits; `grid` is [lowest, highest, points].

    `map` adds a monotone map of prefix survival per slot, for traffic that no temperature calibrates.
    """

    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.5
    grid: Annotated[tuple[float, float, int], Field(strict=False)] = (0.25, 4.0, 64)
    bins: Annotated[int, Field(ge=2, le=1000)] = 15
    map: bool = True


class Recipe(_Section):
    """One run. Paths are absolute once loaded with `load_recipe`."""

    target: Place
    output: Place
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 7
    prompts: PromptsSection
    answers: AnswersSection = AnswersSection()
    cache: CacheSection = CacheSection()
    drafter: DrafterSection
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    calibration: CalibrationSection = CalibrationSection()


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe, with every path in it resolved against the recipe's folder.

    Raises RecipeError that lists every problem with file, line, column and field. What only the target's files can
    tell (how many layers there are, whether the mask token exists) is checked when the target is opened.
    """
    recipe = load_model(path, Recipe, error=RecipeError, noun="recipe", checks=cross_problems)
    return resolved(recipe, Path(path).absolute().parent)


def resolved(recipe: Recipe, base: Path) -> Recipe:
    """Relative paths under `base`; `~` is the home folder."""

    def place(path: Path) -> Path:
        return Path(os.path.normpath(base / path.expanduser()))

    def maybe(path: Path | None) -> Path | None:
        return None if path is None else place(path)

    prompts = recipe.prompts.model_copy(update={"files": tuple(map(place, recipe.prompts.files))})
    answers = recipe.answers.model_copy(update={"drafter": maybe(recipe.answers.drafter)})
    evaluation = recipe.evaluation.model_copy(
        update={
            "compare": tuple(map(place, recipe.evaluation.compare)),
            "plain_model": maybe(recipe.evaluation.plain_model),
        }
    )
    update: dict[str, Any] = {"prompts": prompts, "answers": answers, "evaluation": evaluation}
    return recipe.model_copy(update=update | {"target": place(recipe.target), "output": place(recipe.output)})


def cross_problems(document: Document) -> Iterator[Problem]:
    """What fields say about one another; values of a wrong kind are left to the schema's own complaints."""
    yield from _drafter_problems(document)
    loss = _value(document, "training", "loss")
    if isinstance(loss, dict) and loss.get("ce", 0.1) == 0 and loss.get("tv", 0.9) == 0:
        yield document.problem(("training", "loss"), "ce and tv are both 0: nothing would be learnt")
    grid = _value(document, "calibration", "grid")
    if isinstance(grid, list) and len(grid) == 3 and all(isinstance(each, int | float) for each in grid):
        lowest, highest, points = grid
        if not 0 < lowest < highest or points < 2:
            message = "[lowest, highest, points] needs 0 < lowest < highest and at least 2 points"
            yield document.problem(("calibration", "grid"), message)


def _drafter_problems(document: Document) -> Iterator[Problem]:
    layers = _value(document, "drafter", "target_layer_ids")
    if isinstance(layers, list) and all(type(each) is int for each in layers) and sorted(set(layers)) != layers:
        yield document.problem(("drafter", "target_layer_ids"), "must ascend, without repeats")
    kind, rank = _value(document, "drafter", "kind"), _value(document, "drafter", "markov_rank")
    if kind == "dflash" and isinstance(rank, int) and rank > 0:
        yield document.problem(
            ("drafter", "markov_rank"), "a dflash drafter has no Markov head; set 0 or drop the field"
        )
    if kind == "dflash" and _value(document, "drafter", "confidence") is True:
        message = "a dflash drafter has no confidence head; set false or drop the field"
        yield document.problem(("drafter", "confidence"), message)
    if kind != "dflash" and rank == 0 and type(rank) is int:
        yield document.problem(("drafter", "markov_rank"), "must be at least 1; for none, write `kind: dflash`")


def _value(document: Document, *path: str) -> object:
    """The raw value at a path, None where there is none."""
    value = document.data
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
