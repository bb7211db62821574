"""What estimates are worth on prompts that they were not fitted on: calibration, ranking, what routing by them buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.errors import EvalMismatch
from outrider.quality.assessment import Assessment, Assessor
from outrider.quality.domains import OTHER
from outrider.quality.fitting import Pair, held_out
from outrider.quality.measures import Bin, Interval, auc, bins, calibration_error, resampled
from outrider.quality.trading import Floor, Trade, at_floor, at_share

__all__ = ["Calibration", "Domains", "InDomain", "Judgement", "judge"]

FLOORS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class InDomain:
    """One model's estimates on the items of one domain; figures as in `Calibration`, auc None where all are alike."""

    items: int
    groups: int
    right: float
    mean_probability: float
    brier: float
    brier_by_domain: float
    auc: float | None
    calibration_error: float
    calibration_error_by_chance: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """One model's estimates over the held-out items that have one; intervals are 95 %, resampled by group.

    brier: mean squared error; of a constant (the model's share of right answers where it was fitted), and of that share
    by domain, which is what a policy states. skill: 1 - brier ÷ brier_by_domain.
    calibration_error: mean distance of probability and share right over ten bins of equally many items; by_chance: what
    a perfectly calibrated one would have on so many items, were they independent.
    """

    items: int
    right: float
    mean_probability: float
    brier: float
    brier_constant: float
    brier_by_domain: float
    skill: float
    skill_interval: Interval
    auc: float
    auc_interval: Interval
    calibration_error: float
    calibration_error_by_chance: float
    bins: tuple[Bin, ...]
    domains: dict[str, InDomain]


@dataclass(frozen=True, slots=True)
class Domains:
    """The classifier on held-out items without their tag: share named right, named wrong, and called `other`."""

    items: int
    right: float
    wrong: float
    other: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of all held-out items: how many have estimates, each model's calibration, and what routing by them comes to.

    always: right answers by model. floors_by_domain: with each model's share by domain for estimates, as without them.
    """

    items: int
    groups: int
    estimated: float
    domains: Domains
    models: dict[str, Calibration]
    always: dict[str, float]
    floors: tuple[Floor, ...]
    floors_by_domain: tuple[Floor, ...]
    trades: tuple[Trade, ...]


def judge(assessor: Assessor, pairs: Sequence[Pair]) -> Judgement:
    """Judge on the pairs whose groups were held out, text alone. Raises EvalMismatch where there are none.

    Where a prompt has no estimate, routing falls back on the share by domain, as the router does.
    """
    kept = float(assessor.fitted_on["held_out_share"])
    unseen = [pair for pair in pairs if held_out(pair.group, kept)]
    models = assessor.sufficiency.models
    if not unseen:
        raise EvalMismatch("none of these items was held out when the file was fitted; give results of more")
    lacking = sorted({model for model in models for pair in unseen if model not in pair.correct})
    if lacking:
        raise EvalMismatch(f"the file estimates {', '.join(lacking)}, but no such results were given")
    found = [assessor.assess(pair.text) for pair in unseen]
    correct = np.array([[pair.correct[model] for model in models] for pair in unseen], np.float64)
    stated = _stated(assessor, unseen)
    estimates = np.array([[each.success.get(model, np.nan) for model in models] for each in found])
    known = ~np.isnan(estimates[:, 0])
    if not known.any():
        raise EvalMismatch("none of the held-out items is like those that the file was fitted on")
    used = np.where(known[:, None], estimates, stated)
    groups = np.unique([pair.group for pair in unseen], return_inverse=True)[1]
    kinds = np.array([pair.domain for pair in unseen])
    constant = _constant(assessor)
    return Judgement(
        items=len(unseen),
        groups=len(set(groups.tolist())),
        estimated=float(known.mean()),
        domains=_domains(unseen, found),
        models={
            model: _calibration(
                estimates[known, m], correct[known, m], stated[known, m], constant[m], kinds[known], groups[known]
            )
            for m, model in enumerate(models)
        },
        always=dict(zip(models, correct.mean(axis=0).tolist(), strict=True)),
        floors=tuple(at_floor(floor, used, correct) for floor in FLOORS),
        floors_by_domain=tuple(at_floor(floor, stated, correct) for floor in FLOORS),
        trades=tuple(at_share(share, used, stated, correct) for share in SHARES),
    )


def _stated(assessor: Assessor, pairs: Sequence[Pair]) -> Floats:
    """[items, models]: the model's share of right answers on the item's domain; on all where it was not measured."""
    right, constant = assessor.fitted_on["right"], _constant(assessor)
    models = assessor.sufficiency.models
    return np.array([[right[m].get(pair.domain, constant[i]) for i, m in enumerate(models)] for pair in pairs])


def _constant(assessor: Assessor) -> list[float]:
    items, right = assessor.fitted_on["items"], assessor.fitted_on["right"]
    total = sum(items.values())
    return [sum(items[name] * right[m][name] for name in items) / total for m in assessor.sufficiency.models]


def _domains(pairs: Sequence[Pair], found: Sequence[Assessment]) -> Domains:
    right = sum(each.domain == pair.domain for pair, each in zip(pairs, found, strict=True))
    other = sum(each.domain == OTHER for each in found)
    count = len(pairs)
    return Domains(count, right / count, (count - right - other) / count, other / count)


def _calibration(
    said: Floats, right: Floats, stated: Floats, constant: float, kinds: NDArray[np.str_], groups: NDArray[np.int64]
) -> Calibration:
    missed, missed_stated = np.square(said - right), np.square(stated - right)
    overall = auc(said, right)
    return Calibration(
        items=len(said),
        right=float(right.mean()),
        mean_probability=float(said.mean()),
        brier=float(missed.mean()),
        brier_constant=float(np.square(constant - right).mean()),
        brier_by_domain=float(missed_stated.mean()),
        skill=1 - float(missed.sum() / missed_stated.sum()),
        skill_interval=resampled(groups, lambda times: 1 - float(times @ missed) / float(times @ missed_stated)),
        auc=0.5 if overall is None else overall,
        auc_interval=resampled(groups, lambda times: auc(said, right, times)),
        calibration_error=calibration_error(said, right),
        calibration_error_by_chance=_error_by_chance(said),
        bins=bins(said, right),
        domains={
            name: _in_domain(*(each[kinds == name] for each in (said, right, stated, groups)))
            for name in sorted(set(kinds.tolist()))
        },
    )


def _in_domain(said: Floats, right: Floats, stated: Floats, groups: NDArray[np.int64]) -> InDomain:
    return InDomain(
        items=len(said),
        groups=len(np.unique(groups)),
        right=float(right.mean()),
        mean_probability=float(said.mean()),
        brier=float(np.square(said - right).mean()),
        brier_by_domain=float(np.square(stated - right).mean()),
        auc=auc(said, right),
        calibration_error=calibration_error(said, right),
        calibration_error_by_chance=_error_by_chance(said),
    )


def _error_by_chance(said: Floats) -> float:
    rng = np.random.default_rng(1)
    drawn = [(rng.random(len(said)) < said).astype(np.float64) for _ in range(200)]
    return float(np.mean([calibration_error(said, each) for each in drawn]))
