"""`outrider draft train`: from features to a drafter, as an artifact that says what it was made from."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from outrider.drafter.model import DSparkModel
from outrider.errors import ConfigurationError, DataError, MissingExtra, ModelDirectoryError
from outrider.training.artifacts import Artifact, Manifest
from outrider.training.cache import check_features, open_features
from outrider.training.journal import read_journal
from outrider.training.plots import loss_plot
from outrider.training.recipe import Recipe
from outrider.training.subject import Subject, open_subject
from outrider.training.trainer import Trainer, train
from outrider.training.warm_start import new_drafter

__all__ = ["drafter_artifact", "load_stock", "train_stage"]

CHECKPOINT = ".checkpoint.pt"


def drafter_artifact(recipe: Recipe, variant: str = "") -> Artifact:
    """Where a recipe's drafter stands, or one of its variants."""
    return Artifact(recipe.output, "drafter", variant)


def load_stock(directory: Path) -> Any:
    """The target as transformers has it, fp32, for its weights. Raises ModelDirectoryError."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelDirectoryError(f"model {directory.name}: weights do not load: {reason}") from error
    return model.eval()


def train_stage(recipe: Recipe, *, variant: str = "", restart: bool = False, device: str = "auto") -> Manifest:
    """Make `drafter/` (or `drafter-VARIANT/`), going on from its last checkpoint; returns the manifest.

    The folder holds the drafter in DeepSpec's format, losses.jsonl, TensorBoard events and losses.png.
    Raises ArtifactMissing without features, ArtifactMismatch when they or the settings changed, TrainingDiverged,
    DataError when no answer is long enough to learn from, ConfigurationError for a device that is not there.
    """
    subject = open_subject(recipe)
    place, features = _device(device), check_features(recipe, subject)
    artifact = drafter_artifact(recipe, variant)
    training = recipe.training.model_dump(mode="json", exclude={"checkpoint_s"})
    settings = {"drafter": recipe.drafter.model_dump(mode="json"), "training": training, "seed": recipe.seed}
    if not artifact.begin({"features": features.hash, **subject.inputs}, settings, restart=restart):
        return artifact.require()
    conversations: Any = open_features(recipe)
    drafter = _new(recipe, subject)
    try:
        trainer = Trainer(drafter, conversations, recipe.training, seed=recipe.seed, device=place)
    except ValueError as error:
        raise DataError(f"{Artifact(recipe.output, 'answers').directory}: {error}") from error
    checkpoint, label = artifact.directory / CHECKPOINT, variant or recipe.drafter.kind
    figures: dict[str, Any] = train(trainer, checkpoint, artifact.directory, f"train {label}")
    _write(drafter, artifact.directory)
    try:
        loss_plot(read_journal(artifact.directory), artifact.directory / "losses.png")
    except MissingExtra as error:
        print(f"no losses.png: {error.message}", file=sys.stderr)
    counts = {
        "parameters": sum(p.numel() for p in drafter.parameters()),
        "trained_parameters": sum(p.numel() for p in drafter.parameters() if p.requires_grad),
    }
    manifest = artifact.finish(figures | counts | {"conversations": len(conversations)})
    checkpoint.unlink(missing_ok=True)
    return manifest


def _device(name: str) -> str:
    """A device by its name, or where training runs best. Raises ConfigurationError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ConfigurationError(f"--device {name}: known: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("--device cuda: PyTorch finds no CUDA device here; use --device cpu, or auto")
    return name


def _new(recipe: Recipe, subject: Subject) -> DSparkModel:
    return new_drafter(
        load_stock(recipe.target),
        recipe.drafter,
        subject.mask_token_id,
        anchors=recipe.training.anchors_per_conversation,
        warm_start=recipe.training.warm_start,
        seed=recipe.seed,
    )


def _write(drafter: DSparkModel, directory: Path) -> None:
    """The drafter's files, each whole or absent."""
    partial = directory / ".weights.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        drafter.save(partial)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial)) from error
    for file in sorted(partial.iterdir()):
        os.replace(file, directory / file.name)
    partial.rmdir()
