"""`outrider draft export`: a drafter as others use it, in one directory: weights, calibration, a card."""

from __future__ import annotations

import json
import shutil
from typing import Any

from outrider.drafter.model import DSparkModel
from outrider.scheduling.calibration import CALIBRATION_FILE, Calibration
from outrider.training.artifacts import Artifact, Manifest
from outrider.training.drafter_eval import EVALUATION
from outrider.training.recipe import Recipe
from outrider.training.subject import open_subject
from outrider.training.train_stage import drafter_artifact

__all__ = ["export_stage"]

CARD = "README.md"


def export_stage(recipe: Recipe, *, variant: str = "", restart: bool = False) -> Manifest:
    """Make `export/`, which serving configurations, `open_engine` and DeepSpec's loader take as it is.

    Raises ArtifactMissing without drafter or calibration, ArtifactMismatch when they do not belong together.
    """
    subject = open_subject(recipe)
    parts = {kind: Artifact(recipe.output, kind, variant) for kind in ("drafter", "evaluation", "calibration")}
    manifests = {"drafter": parts["drafter"].require_from(subject.inputs)}
    of_drafter = {"drafter": manifests["drafter"].hash}
    manifests |= {kind: parts[kind].require_from(of_drafter) for kind in ("evaluation", "calibration")}
    inputs = subject.inputs | {kind: manifest.hash for kind, manifest in manifests.items()}
    artifact = Artifact(recipe.output, "export", variant)
    settings = {"target": recipe.target.name}
    if not artifact.begin(inputs, settings, restart=restart):
        return artifact.require()
    source = drafter_artifact(recipe, variant)
    for name in manifests["drafter"].files:
        if name == "config.json" or name.endswith(".safetensors"):
            shutil.copyfile(source.check_content(name), artifact.directory / name)
    shutil.copyfile(parts["calibration"].check_content(CALIBRATION_FILE), artifact.directory / CALIBRATION_FILE)
    model = DSparkModel.load(artifact.directory)
    Calibration.find(artifact.directory, model.config.block_size)
    report = json.loads(parts["evaluation"].check_content(EVALUATION).read_text("utf-8"))
    (artifact.directory / CARD).write_text(_card(recipe, manifests, report, source.directory.name), encoding="utf-8")
    return artifact.finish(
        {"block_size": model.config.block_size, "parameters": sum(p.numel() for p in model.parameters())}
        | {"calibration": manifests["calibration"].figures}
    )


def _card(recipe: Recipe, manifests: dict[str, Manifest], report: dict[str, Any], method: str) -> str:
    """What it is, what it was made from, what it measured."""
    trained, drafter, loss = manifests["drafter"].figures, recipe.drafter, recipe.training.loss
    lines = [
        f"# Drafter for {recipe.target.name}",
        "",
        f"{drafter.kind}, {drafter.layers} layers, block size {drafter.block_size}, tapped layers "
        f"{list(drafter.target_layer_ids)}, Markov head {drafter.markov_head if drafter.markov_rank else 'none'} "
        f"(rank {drafter.markov_rank}), {trained['parameters']:,} parameters of which "
        f"{trained['trained_parameters']:,} are trained (embeddings and output matrix are the target's).",
        "",
        f"Trained for {trained['steps']:,} steps on {trained['conversations']:,} of the target's own answers; loss "
        f"{loss.ce:g}·CE + {loss.tv:g}·TV + {loss.confidence:g}·confidence ({recipe.training.label} label).",
        "",
        "## Acceptance length on held-out prompts",
        "Tokens per round, bonus included, every block verified whole; 95 % intervals over prompts.",
        "",
        "| temperature | domain | τ | interval | accepted ÷ verified | prompts |",
        "|---|---|---|---|---|---|",
    ]
    for temperature, part in report["temperatures"].items():
        for domain, each in part["methods"][method]["domains"].items():
            low, high = each["tau_interval"]
            share = each["accepted_per_verified"]
            lines.append(
                f"| {temperature} | {domain} | {each['tau']:.2f} | {low:.2f}–{high:.2f} | "
                f"{'–' if share is None else f'{share:.2f}'} | {each['prompts']} |"
            )
    lines += [
        "",
        "## Calibration of prefix survival (coupled verification, judged on prompts it was not fitted on)",
        "",
        "| class | mean ECE before | after temperatures | and maps | of which chance | mean AUC |",
        "|---|---|---|---|---|---|",
    ]
    for kind, each in manifests["calibration"].figures.items():
        shares = [each.get(name) for name in ("ece_before", "ece_after", "ece_mapped", "ece_floor")]
        cells = ["–" if share is None else f"{100 * share:.1f} %" for share in shares]
        auc = "–" if each["auc"] is None else f"{each['auc']:.3f}"
        lines.append(f"| {kind} | " + " | ".join(cells) + f" | {auc} |")
    lines += ["", "## Made from", ""]
    lines += [f"- {name}: `{value}`" for name, value in sorted(manifests["drafter"].inputs.items())]
    return "\n".join(lines) + "\n"
