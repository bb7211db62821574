"""`outrider draft calibrate`: temperatures and maps for a drafter's confidences from the rounds of its evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from outrider.errors import ArtifactBroken, DataError
from outrider.scheduling.calibration import CALIBRATION_FILE, Calibration, SurvivalMap, traffic_class
from outrider.scheduling.fitting import fit_maps, fit_temperatures
from outrider.training.artifacts import Artifact, Manifest
from outrider.training.drafter_eval import EVALUATION, rounds_file
from outrider.training.recipe import Recipe
from outrider.training.rounds import Rounds
from outrider.training.scaling import judge, reliability, split_prompts
from outrider.training.storage import write_json
from outrider.training.subject import open_subject
from outrider.training.train_stage import drafter_artifact

__all__ = ["FIGURES", "STATES", "calibrate_stage", "played_rounds"]

FIGURES = "figures.json"
STATES = ("before", "after", "mapped")
"""What is judged: the head as it is, after temperature scaling, and after maps too, where the recipe wants them."""
RULE = "coupled"


def calibrate_stage(recipe: Recipe, *, variant: str = "", label: str = "", restart: bool = False) -> Manifest:
    """Make `calibration/`: calibration.json for the engine, figures.json for the report.

    Each class of traffic (greedy, sampled) is fitted on some prompts and judged on the others; what was judged is what
    is kept, without a second fit on all of them.
    Raises ArtifactMissing without an evaluation, ArtifactMismatch when it changed or is of another drafter or target,
    DataError with too few prompts.
    """
    drafter = drafter_artifact(recipe, variant)
    evaluation = Artifact(recipe.output, "evaluation", variant, label)
    made = drafter.require_from(open_subject(recipe).inputs).hash
    inputs = {"drafter": made, "evaluation": evaluation.require_from({"drafter": made}).hash}
    artifact = Artifact(recipe.output, "calibration", variant)
    settings = recipe.calibration.model_dump(mode="json") | {"seed": recipe.seed}
    if not artifact.begin(inputs, settings, restart=restart):
        return artifact.require()
    section, figures = recipe.calibration, {}
    lowest, highest, points = section.grid
    grid = np.geomspace(lowest, highest, points)
    temperatures: dict[tuple[str, str], Any] = {}
    maps: dict[tuple[str, str], Sequence[SurvivalMap]] = {}
    for kind, rounds in _rounds(evaluation, drafter.directory.name).items():
        fit, held = split_prompts(rounds.prompt.tolist(), section.holdout, recipe.seed)
        if not fit or not held:
            raise DataError(
                f"{evaluation.directory}: {len(fit) + len(held)} prompts with {kind} rounds are too few to fit and "
                "judge; raise evaluation.limit_per_domain, or give more held-out prompts"
            )
        found = fit_temperatures(rounds.of(fit), grid, section.bins)
        temperatures[RULE, kind] = found
        if section.map:
            maps[RULE, kind] = fit_maps(rounds.of(fit), found)
        judged = _figures(rounds.of(held), found, maps.get((RULE, kind)), section.bins)
        figures[kind] = judged | {"fit_prompts": len(fit), "prompts": len(held)}
    block_size = json.loads((drafter.directory / "config.json").read_text("utf-8"))["block_size"]
    write_json(artifact.directory / CALIBRATION_FILE, Calibration(block_size, temperatures, maps).to_json())
    write_json(artifact.directory / FIGURES, figures)
    return artifact.finish({kind: _short(each) for kind, each in figures.items()})


def played_rounds(evaluation: Artifact, method: str) -> Iterator[tuple[float, Rounds]]:
    """(temperature, a method's rounds) of a finished evaluation, prompts whose answers are repetition left out.

    Raises ArtifactBroken for rounds that cannot be read.
    """
    report = json.loads(evaluation.check_content(EVALUATION).read_text("utf-8"))
    for temperature, part in report["temperatures"].items():
        path = evaluation.check_content(rounds_file(method, float(temperature)))
        try:
            yield float(temperature), Rounds.load(path).of(part["sound_prompts"])
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactBroken(
                f"{path}: unreadable ({error}); `{evaluation.command} --restart` rebuilds it"
            ) from error


def _rounds(evaluation: Artifact, method: str) -> dict[str, Rounds]:
    """The drafter's rounds by class of traffic.

    A prompt has the same number at every temperature, so it is on one side of the split in all of them.
    """
    found: dict[str, list[Rounds]] = {}
    for temperature, rounds in played_rounds(evaluation, method):
        if len(rounds.run):
            found.setdefault(traffic_class(temperature), []).append(rounds)
    return {kind: Rounds.joined(parts, parts[0].gamma) for kind, parts in sorted(found.items())}


def _figures(held: Rounds, temperatures: Any, maps: Sequence[SurvivalMap] | None, bins: int) -> dict[str, Any]:
    """Before, after the temperatures, and with maps, each with what a reliability diagram shows."""

    def state(scales: Any, maps: Sequence[SurvivalMap] | None = None) -> dict[str, Any]:
        curves = [reliability(held, scales, slot, bins, maps=maps) for slot in range(1, held.gamma + 1)]
        return judge(held, scales, bins, maps=maps) | {"reliability": curves}

    found = {
        "temperatures": [float(each) for each in temperatures],
        "before": state(None),
        "after": state(temperatures),
    }
    return found if maps is None else found | {"mapped": state(temperatures, maps)}


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    """Averages over slots, for the manifest and the terminal."""
    states = {when: figures[when] for when in STATES if when in figures}
    last = states[list(states)[-1]]
    return {
        "temperatures": [round(each, 3) for each in figures["temperatures"]],
        **{f"ece_{when}": each["mean_ece"] for when, each in states.items()},
        "ece_floor": last["mean_floor"],
        "auc": last["mean_auc"],
        **{f"brier_{when}": each["mean_brier"] for when, each in states.items()},
        "prompts": figures["prompts"],
    }
