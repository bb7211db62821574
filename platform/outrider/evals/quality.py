"""Measured accuracy as a policy's `quality`, and the edit that puts it there without touching anything else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from outrider.documents import unknown
from outrider.errors import ConfigurationError, EvalMismatch
from outrider.evals.result import Result

__all__ = ["DEFAULT_DOMAIN", "Quality", "measured_quality", "quality_yaml", "with_quality"]

DEFAULT_DOMAIN = "default"
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores in [0, 1] by domain of one model; `default` is their mean and answers for every other domain."""

    model: str
    scores: Mapping[str, float]
    items: Mapping[str, int]


def measured_quality(results: Sequence[Result], *, name: str | None = None, lower_bound: bool = False) -> list[Quality]:
    """Scores of each model in the results; `name` calls the only one otherwise.

    lower_bound: the lower end of the 95 % interval instead of the accuracy. Raises EvalMismatch where two results
    measure a model on one domain, or `name` is given for several models.
    """
    models = list(dict.fromkeys(result.model for result in results))
    if name is not None and len(models) > 1:
        raise EvalMismatch(f"--model names one model, but the results are of {', '.join(models)}")
    found = []
    for model in models:
        scores: dict[str, float] = {}
        items: dict[str, int] = {}
        for result in (each for each in results if each.model == model):
            for domain, summary in result.domains.items():
                if domain in scores:
                    raise EvalMismatch(f"two results measure {model} on {domain}; give one of them")
                scores[domain] = summary.low if lower_bound else summary.accuracy
                items[domain] = summary.items
        if scores:
            scores = {DEFAULT_DOMAIN: sum(scores.values()) / len(scores)} | scores
            rounded = {domain: round(score, _DIGITS) for domain, score in scores.items()}
            found.append(Quality(name or model, rounded, items))
    return found


def quality_yaml(quality: Quality) -> str:
    """Lines to paste under a policy's `models`."""
    scores = ", ".join(f"{domain}: {score:.3f}" for domain, score in quality.scores.items())
    return f"  {quality.model}:\n    quality: {{{scores}}}\n"


def with_quality(text: str, file: str, quality: Quality) -> str:
    """A policy's text with the model's measured scores in its `quality`; every other character stays.

    Domains that were not measured keep their scores. `text` is a policy that loads (no anchors, no duplicates).
    Raises ConfigurationError where it has no such model.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    models = _child(root, "models")
    names = [key.value for key, _ in models.value] if isinstance(models, yaml.MappingNode) else []
    section = _child(_child(models, quality.model), "quality")
    if not isinstance(section, yaml.MappingNode):
        raise ConfigurationError(
            f"{file}: models: {unknown('model', quality.model, names)}; --model gives its name there"
        )
    edits = [
        (value.start_mark.index, value.end_mark.index, _score(quality.scores[key.value]))
        for key, value in section.value
        if key.value in quality.scores
    ]
    present = {key.value for key, _ in section.value}
    added = {domain: score for domain, score in quality.scores.items() if domain not in present}
    if added:
        edits.append(_insertion(text, section, added))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _score(score: float) -> str:
    return f"{score:.3f}"


def _insertion(text: str, section: yaml.MappingNode, added: Mapping[str, float]) -> tuple[int, int, str]:
    """Where new domains go, and their text: behind the last one, in the section's own style."""
    last_key, last_value = section.value[-1]
    at = last_value.end_mark.index
    if section.flow_style:
        return at, at, "".join(f", {domain}: {_score(score)}" for domain, score in added.items())
    line_end = re.compile(r"[^\r\n]*").match(text, at)
    at = line_end.end() if line_end else at
    newline = "\r\n" if text[at : at + 2] == "\r\n" else "\n"
    indent = " " * last_key.start_mark.column
    return at, at, "".join(f"{newline}{indent}{domain}: {_score(score)}" for domain, score in added.items())
