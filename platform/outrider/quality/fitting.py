"""From paired outcomes of an evaluation to an assessor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.errors import EvalMismatch
from outrider.quality.assessment import Assessor
from outrider.quality.domains import DomainClassifier, Vocabulary
from outrider.quality.features import Hashes, Rows, features
from outrider.quality.logistic import Linear, fit_linear, sigmoid, softmax
from outrider.quality.sufficiency import Sufficiency, sides

__all__ = ["Pair", "fit_assessor", "held_out"]

FOLDS = 5
LEAST_ITEMS, LEAST_GROUPS = 100, 20
PRIOR_ITEMS = 0.7
"""Ridge is this over the number of items: a prior on the weights that data outweigh."""
LEAST_PROBABILITY, LEAST_COVERAGE = 0.7, 0.5
"""Chosen on 80 prompts written by hand for the demo domains, half of them about something else."""
UNFAMILIAR_SHARE, MOST_COVERAGE = 0.02, 0.9
"""A prompt is like those measured when its coverage is above this quantile of theirs, and never asked to be higher."""
_RIDGE_PLATT = 1e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """One item and which models got it right. Items of one group (a source) are fitted on or held out together."""

    text: str
    domain: str
    group: str
    correct: Mapping[str, bool]


def held_out(group: str, share: float) -> bool:
    """Whether a group is kept from fitting: a hash of its name decides, so the same ones are wherever it comes up."""
    return _place(group, "held out") < share


def fit_assessor(pairs: Sequence[Pair], about: Mapping[str, Any], *, share: float = 0.25) -> Assessor:
    """Fit on all pairs but the `held_out` share; models are those of the first pair, in its order.

    Every score that Platt's scaling and the thresholds are fitted on is of a prompt which that score's regression had
    not seen: five regressions leave out a fifth of the groups each. Deterministic. Raises EvalMismatch where pairs are
    too few, or of one outcome only.
    """
    used = [pair for pair in pairs if not held_out(pair.group, share)]
    models = tuple(pairs[0].correct) if pairs else ()
    names = tuple(sorted({pair.domain for pair in used}))
    _check(used, models, names)
    data = _Data.of(used, names, models)
    scores, coverage = _as_unseen(data, _folds(used))
    platt = [_platt(scores[:, m], data.correct[:, m]) for m in range(len(models))]
    of_domain = [coverage[data.domains[:, number] == 1] for number in range(len(names))]
    usual = np.array([min(MOST_COVERAGE, np.quantile(each, UNFAMILIAR_SHARE)) for each in of_domain])
    vocabulary = Vocabulary.of(data.hashed)
    classifier = DomainClassifier(names, _domain_linear(data), vocabulary, usual, LEAST_PROBABILITY, LEAST_COVERAGE)
    slope, offset = (np.array(column) for column in zip(*platt, strict=True))
    sufficiency = Sufficiency(models, _sufficiency_linear(data), slope, offset)
    return Assessor(classifier, sufficiency, {**about, "held_out_share": share, **_counts(used, names, models)})


def _as_unseen(data: _Data, folds: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Scores [items, models] and coverage [items] that each prompt has when its fold is not fitted on."""
    scores, coverage = np.zeros_like(data.correct), np.zeros(len(folds))
    for fold in range(FOLDS):
        seen, unseen = data.some(np.flatnonzero(folds != fold)), np.flatnonzero(folds == fold)
        rest = data.some(unseen)
        scores[unseen] = _sufficiency_linear(seen).scores(rest.rows, sides(rest.domains))
        vocabulary = Vocabulary.of(seen.hashed)
        coverage[unseen] = [vocabulary.coverage(each) for each in rest.hashed]
    return scores, coverage


def _folds(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Numbers of folds of whole groups, equally many groups in each."""
    ranked = sorted({pair.group for pair in pairs}, key=lambda group: _place(group, "fold"))
    fold = {group: rank % FOLDS for rank, group in enumerate(ranked)}
    return np.array([fold[pair.group] for pair in pairs])


def _check(used: Sequence[Pair], models: tuple[str, ...], names: tuple[str, ...]) -> None:
    if len(used) < LEAST_ITEMS:
        raise EvalMismatch(f"{len(used)} items to fit on; {LEAST_ITEMS} are the least that mean anything: run more")
    groups = len({pair.group for pair in used})
    if groups < LEAST_GROUPS:
        raise EvalMismatch(f"the items are of {groups} groups; {LEAST_GROUPS} are the least that can be told apart")
    if len(names) < 2:
        raise EvalMismatch("the items are all of one domain; a classifier needs two at least: add results of another")
    for model in models:
        right = sum(pair.correct[model] for pair in used)
        if right in (0, len(used)):
            raise EvalMismatch(f"{model} got {'every' if right else 'no'} item right; there is nothing to tell apart")


def _counts(used: Sequence[Pair], names: tuple[str, ...], models: tuple[str, ...]) -> dict[str, Any]:
    """Items by domain, and each model's share of right answers among them."""
    of = {name: [pair for pair in used if pair.domain == name] for name in names}
    right = {m: {name: sum(pair.correct[m] for pair in each) / len(each) for name, each in of.items()} for m in models}
    return {"items": {name: len(each) for name, each in of.items()}, "right": right}


def _place(group: str, purpose: str) -> float:
    """A number in [0, 1) that is a function of both names."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{group}".encode("utf-8", "surrogatepass")).digest()[:6]) / 2**48


@dataclass(frozen=True, slots=True)
class _Data:
    """hashed and rows of the prompts; domains [items, domains] and correct [items, models] as 0 and 1."""

    hashed: list[Hashes]
    rows: Rows
    domains: Floats
    correct: Floats

    @classmethod
    def of(cls, pairs: Sequence[Pair], names: tuple[str, ...], models: tuple[str, ...]) -> _Data:
        hashed = [features(pair.text) for pair in pairs]
        domains = np.array([[pair.domain == name for name in names] for pair in pairs], np.float64)
        correct = np.array([[pair.correct[model] for model in models] for pair in pairs], np.float64)
        return cls(hashed, Rows.of(hashed), domains, correct)

    def some(self, which: NDArray[np.int64]) -> _Data:
        hashed = [self.hashed[index] for index in which]
        return _Data(hashed, Rows.of(hashed), self.domains[which], self.correct[which])


def _sufficiency_linear(data: _Data) -> Linear:
    return _rounded(fit_linear(data.rows, sides(data.domains), data.correct, sigmoid, PRIOR_ITEMS / len(data.hashed)))


def _domain_linear(data: _Data) -> Linear:
    return _rounded(
        fit_linear(data.rows, np.ones((len(data.hashed), 1)), data.domains, softmax, PRIOR_ITEMS / len(data.hashed))
    )


def _rounded(linear: Linear) -> Linear:
    """Weights as the file keeps them, so that what was fitted and what is loaded say the same."""
    return Linear(linear.weights.astype(np.float16).astype(np.float64), linear.by_side)


def _platt(scores: Floats, correct: Floats) -> tuple[float, float]:
    """Slope and offset of Platt's scaling by Newton's method, held near (1, 0) by a little ridge."""
    columns = np.stack((scores, np.ones(len(scores))), axis=1)
    found = start = np.array([1.0, 0.0])
    for _ in range(50):
        expected = sigmoid(columns @ found)
        slope = columns.T @ (expected - correct) / len(scores) + _RIDGE_PLATT * (found - start)
        bend = columns.T @ (columns * (expected * (1 - expected))[:, None]) / len(scores) + _RIDGE_PLATT * np.eye(2)
        change = np.linalg.solve(bend, slope)
        found = found - change
        if np.abs(change).max() < 1e-10:
            break
    return float(found[0]), float(found[1])
