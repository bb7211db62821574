"""`outrider draft eval`: acceptance of a drafter and of what it is compared with, on the target's held-out answers.

Answers are generated once per temperature and every drafter is led through the same ones. The evaluation folder keeps
answers, the rounds of every method (which calibration reads) and evaluation.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from outrider.drafter.config import DSparkConfig
from outrider.drafter.lookup import LookupProposer
from outrider.drafter.model import DSparkModel
from outrider.drafter.plain import PlainConfig, PlainModel, PlainProposer
from outrider.drafter.proposer import Proposer
from outrider.errors import ConfigurationError, DataError, DrafterMismatch
from outrider.training.acceptance import figures_by_domain
from outrider.training.artifacts import Artifact, Manifest, file_sha256
from outrider.training.progress import Progress
from outrider.training.recipe import Recipe
from outrider.training.rounds import KnownAnswer, Rounds, play, states_of
from outrider.training.storage import write_json
from outrider.training.subject import Subject, model_identity, open_subject
from outrider.training.train_stage import drafter_artifact, load_stock
from outrider.training.trials import DEGENERATE_RATIO, Trial, answer_trials, is_degenerate, read_trials

__all__ = ["EVALUATION", "eval_stage", "rounds_file"]

EVALUATION = "evaluation.json"


@dataclass(frozen=True, slots=True)
class _Method:
    """Something that drafts: `load` makes it, `directory` is where it comes from, if anywhere."""

    name: str
    load: Callable[[], DSparkModel | Proposer]
    directory: Path | None


def rounds_file(method: str, temperature: float) -> str:
    """The name of a method's rounds inside the evaluation folder."""
    return f"rounds-{method}-t{temperature:g}.npz"


def eval_stage(
    recipe: Recipe,
    *,
    variant: str = "",
    label: str = "",
    prompts: Sequence[Path] = (),
    restart: bool = False,
) -> Manifest:
    """Make `evaluation/` for a drafter: on the recipe's held-out prompts, or on `prompts` files, told apart by `label`.

    Raises ArtifactMissing without a drafter or prompts, ArtifactMismatch when they or the settings changed, DataError
    for prompt files that cannot be read, DrafterMismatch for a compared drafter of another target; all of these before
    anything that is there is touched.
    """
    subject = open_subject(recipe)
    drafter = drafter_artifact(recipe, variant)
    manifest = drafter.require_from(subject.inputs)
    methods = _methods(recipe, subject, drafter.directory)
    artifact = Artifact(recipe.output, "evaluation", variant, label)
    inputs = {**subject.inputs, "drafter": manifest.hash}
    for method in methods[1:]:
        if method.directory is not None:
            inputs[method.name] = model_identity(method.directory, recipe.output / "identities.json")
    if prompts:
        files = list(prompts)
        for file in files:
            if not file.is_file():
                raise DataError(f"{file}: no such file; check --prompts")
            inputs[file.name] = file_sha256(file)
    else:
        source = Artifact(recipe.output, "prompts")
        inputs["prompts"] = source.require().hash
        files = [source.check_content("heldout.jsonl")]
    section = recipe.evaluation.model_dump(mode="json", exclude={"compare", "plain_model"})
    settings = section | {"methods": [method.name for method in methods], "seed": recipe.seed}
    limit, longest = recipe.evaluation.limit_per_domain, recipe.evaluation.max_new_tokens
    trials = read_trials(files, subject.text, limit, longest, chat=bool(prompts))
    if not artifact.begin(inputs, settings, restart=restart):
        return artifact.require()
    report = _evaluate(recipe, subject, trials, methods, artifact.directory)
    write_json(artifact.directory / EVALUATION, report)
    return artifact.finish(_short(report))


def _evaluate(
    recipe: Recipe, subject: Subject, trials: Sequence[Trial], methods: Sequence[_Method], directory: Path
) -> dict[str, Any]:
    domains = [trial.domain for trial in trials]
    report: dict[str, Any] = {
        "target": recipe.target.name,
        "prompts": {domain: domains.count(domain) for domain in sorted(set(domains))},
        "domain_of_prompt": domains,
        "degenerate_ratio": DEGENERATE_RATIO,
        "temperatures": {},
    }
    model = load_stock(recipe.target)
    for temperature in recipe.evaluation.temperatures:
        file = directory / f"answers-t{temperature:g}.jsonl"
        answers = answer_trials(
            recipe.target, trials, temperature, recipe.evaluation.max_new_tokens, recipe.seed, file
        )  # fmt: skip
        sound = [i for i, answer in enumerate(answers) if not is_degenerate(subject.text.decode(answer.response))]
        left_out = [domains[i] for i in range(len(answers)) if i not in set(sound)]
        states = _States(model, answers)
        found = {}
        for method in methods:
            rounds = _rounds(method, answers, states, temperature, directory / rounds_file(method.name, temperature))
            found[method.name] = {"block_size": rounds.gamma} | figures_by_domain(rounds.of(sound), domains)
        report["temperatures"][f"{temperature:g}"] = {
            "degenerate": {domain: left_out.count(domain) for domain in sorted(set(domains))},
            "response_tokens": sum(len(answers[i].response) for i in sound),
            "sound_prompts": sound,
            "methods": found,
        }
    report["methods"] = {method.name: _about(method) for method in methods}
    return report


class _States:
    """Tapped states of the answers, computed once per set of layers."""

    def __init__(self, model: Any, answers: Sequence[KnownAnswer]) -> None:
        self._model, self._answers = model, answers
        self._known: dict[tuple[int, ...], list[Tensor]] = {}

    def tapped(self, layer_ids: tuple[int, ...]) -> list[Tensor]:
        if layer_ids not in self._known:
            self._known[layer_ids] = states_of(self._model, self._answers, layer_ids)
        return self._known[layer_ids]


def _rounds(method: _Method, answers: Sequence[KnownAnswer], states: _States, temperature: float, file: Path) -> Rounds:
    """A method's rounds, from an interrupted evaluation's file or played now."""
    if file.exists():
        with suppress(OSError, ValueError, KeyError):
            return Rounds.load(file)
    drafter = method.load()
    rows = states.tapped(drafter.config.target_layer_ids) if isinstance(drafter, DSparkModel) else None
    with Progress(f"eval {method.name} at T={temperature:g}") as progress:
        rounds = play(
            drafter, answers, rows, temperature, lambda done: progress.update(done / len(answers), prompts=done)
        )
    rounds.save(file)
    return Rounds.load(file)


def _methods(recipe: Recipe, subject: Subject, drafter: Path) -> list[_Method]:
    """The drafter first, then what the recipe compares with and baselines; all are checked before any is loaded."""
    gamma = recipe.drafter.block_size
    vocab, context = subject.text.vocab_size, subject.text.context_tokens
    methods = [_Method(drafter.name, lambda: _fitting(drafter, subject), drafter)]
    for directory in recipe.evaluation.compare:
        _check_fits(directory, subject)
        taken = {method.name for method in methods}
        name = directory.name if directory.name not in taken else f"{directory.parent.name}-{directory.name}"
        methods.append(_Method(name, lambda directory=directory: _fitting(directory, subject), directory))  # type: ignore[misc]
    if recipe.evaluation.plain_model is not None:
        plain = recipe.evaluation.plain_model
        _check_plain(plain, vocab)
        methods.append(_Method("plain-model", lambda: PlainProposer(PlainModel.load(plain), gamma), plain))
    if "prompt-lookup" in recipe.evaluation.baselines:
        methods.append(_Method("prompt-lookup", lambda: LookupProposer(vocab, context, gamma), None))
    return methods


def _fitting(directory: Path, subject: Subject) -> DSparkModel:
    """A drafter of this target. Raises DrafterMismatch."""
    _check_fits(directory, subject)
    return DSparkModel.load(directory)


def _check_fits(directory: Path, subject: Subject) -> None:
    """Whether a folder holds a drafter of this target's shape and, where it says what it was made from, of this target.

    Raises ConfigurationError, DrafterMismatch.
    """
    if not (directory / "config.json").is_file():
        raise ConfigurationError(f"evaluation.compare: {directory} has no config.json; name the folder of a drafter")
    config = DSparkConfig.load(directory)
    for field, ours, theirs in (
        ("hidden_size", config.hidden_size, subject.hidden_size),
        ("num_target_layers", config.num_target_layers, subject.layers),
        ("vocab_size", config.vocab_size, subject.text.vocab_size),
    ):
        if ours != theirs:
            raise DrafterMismatch(
                f"drafter {directory}: {field} is {ours}, the target {subject.directory} has {theirs}; it was made for "
                "another target",
                param=field,
            )
    made_for = None
    with suppress(OSError, ValueError, KeyError, TypeError):  # a drafter from elsewhere has no manifest of ours
        made_for = json.loads((directory / "manifest.json").read_text("utf-8"))["inputs"]["target"]
    if made_for not in (None, subject.identity):
        raise DrafterMismatch(
            f"drafter {directory}: its manifest.json says that it was made for another target ({made_for[:12]}) than "
            f"{subject.directory} ({subject.identity[:12]})",
            param="evaluation.compare",
        )


def _check_plain(directory: Path, vocab: int) -> None:
    """Whether a plain model can draft for a target with `vocab` ids. Raises ConfigurationError, DrafterMismatch."""
    if not (directory / "config.json").is_file():
        raise ConfigurationError(f"evaluation.plain_model: {directory} has no config.json; name the folder of a model")
    size = PlainConfig.load(directory).vocab_size
    if size != vocab:
        raise DrafterMismatch(
            f"evaluation.plain_model: {directory} has {size} token ids, the target {vocab}; a plain drafter shares the "
            "target's tokenizer",
            param="evaluation.plain_model",
        )


def _about(method: _Method) -> dict[str, Any]:
    """What a reader of the report wants to know of a method."""
    if method.directory is None or not (method.directory / "config.json").is_file():
        return {}
    config = json.loads((method.directory / "config.json").read_text("utf-8"))
    names = ("num_hidden_layers", "block_size", "markov_head_type", "markov_rank", "enable_confidence_head")
    about = {name: config[name] for name in names if name in config}
    about["bytes"] = sum(file.stat().st_size for file in method.directory.glob("*.safetensors"))
    with suppress(OSError, ValueError, KeyError):  # a drafter from elsewhere has no manifest of ours
        manifest = json.loads((method.directory / "manifest.json").read_text("utf-8"))
        training = manifest["settings"]["training"]
        about |= {"loss": training["loss"], "steps": training["steps"]}
        about["trained_parameters"] = manifest["figures"]["trained_parameters"]
    return about


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """τ per temperature, method and domain, for the manifest and the terminal."""
    found: dict[str, Any] = {}
    for temperature, part in report["temperatures"].items():
        found[f"tau at T={temperature}"] = {
            name: {domain: each["tau"] for domain, each in figures["domains"].items()}
            | ({"macro": figures["macro_tau"]} if figures["macro_tau"] is not None else {})
            for name, figures in part["methods"].items()
        }
        found[f"degenerate at T={temperature}"] = part["degenerate"]
    return found
