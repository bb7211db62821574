"""Judging a calibration by what came of its predictions, and replacing it where another is better. NumPy only.

Shapes: N rounds, γ slots. a: prefix survival as predicted, o: 1[accepted prefix ≥ k]; slots without outcome are left
out. Slots of a round depend on each other: under a calibrated a, E[o_j·o_k] = a_max(j,k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.scheduling.calibration import SurvivalMap, prefix_survival
from outrider.scheduling.fitting import auc, ece, fit_maps, fit_temperatures
from outrider.types import CalibrationReport

__all__ = ["Observations", "Refit", "disagreement", "refit", "report", "survival_floor"]

BINS = 15
GRID = np.geomspace(0.25, 4.0, 13)
ADOPTED_ABOVE = 3.0
"""Standard errors by which a refit must beat a calibration that is in use, so that noise replaces none."""
CLEARLY_LESS = 0.75
MANY = 768
"""Over so many rounds a calibration error this much smaller counts too: Brier scores of Pro's head hardly tell 6 % from
3 %. With fewer the error is noise: a right calibration was replaced in 7 of 100 runs of 2,000 rounds."""
JUDGED = 256
"""Newest rounds of which disagreement is asked: more would make trifles significant."""
_CERTAIN = 1e-3
"""Predictions count as this far from 0 and 1 at least, so that one surprise is not infinitely surprising."""
_CONFIDENCE_Z = 1.645
"""One-sided 95 %."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observations:
    """N rounds whose outcome is known, as `outrider.scheduling.fitting.Played` says; owner: whose, int64 [N]."""

    confidence: NDArray[np.float32]
    run: NDArray[np.int64]
    left: NDArray[np.int64]
    owner: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> Observations:
        """Some of the rounds."""
        return Observations(self.confidence[chosen], self.run[chosen], self.left[chosen], self.owner[chosen])

    @property
    def outcomes(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(o, where there is one), bool [N, γ] each."""
        slots = np.arange(self.confidence.shape[1])
        return self.run[:, None] > slots, self.left[:, None] > slots


@dataclass(frozen=True, slots=True)
class Refit:
    """A calibration that beat the present one, and how much the newest rounds disagree with their half's prediction."""

    temperatures: Floats
    maps: tuple[SurvivalMap, ...] | None
    disagreement: float


def disagreement(survival: Floats, seen: Observations) -> float:
    """How far outcomes are from predictions, √χ² with two degrees of freedom; 0 without rounds.

    Σ(o − a) asks whether accepted lengths are as expected, Σ(o − a)(a − ā) with the slot's mean ā whether high
    predictions are worth as much more than low ones as they say. Their covariance is the exact one for independent
    rounds and true predictions, so that 5 is exceeded with a chance of 4 in a million; it is widened where rounds of
    one answer resemble each other.
    """
    if not len(seen.run):
        return 0.0
    label, real = seen.outcomes
    chance = np.clip(survival, _CERTAIN, 1 - _CERTAIN)
    deeper = np.maximum.outer(np.arange(chance.shape[1]), np.arange(chance.shape[1]))
    covariance = chance[:, deeper] - chance[:, :, None] * chance[:, None, :]
    mean = (chance * real).sum(axis=0) / np.maximum(real.sum(axis=0), 1)
    weights = np.stack([real.astype(np.float64), real * (chance - mean)])
    scores = np.einsum("anj,nj->na", weights, label - chance)
    spread = np.einsum("anj,njk,bnk->ab", weights, covariance, weights)
    # all predictions may be alike: then there is one question only
    precision = np.linalg.pinv(spread, rcond=1e-9, hermitian=True)
    total = scores.sum(axis=0)
    return float(np.sqrt(max(total @ precision @ total, 0.0) / _resemblance(scores, seen.owner)))


def _resemblance(scores: Floats, owner: NDArray[np.int64]) -> float:
    """Variance of summed scores [N, 2] over what it were if rounds of one owner were independent; 1 at least."""
    apart = scores - scores.mean(axis=0)
    _, row = np.unique(owner, return_inverse=True)
    answers = np.zeros((int(row.max()) + 1, 2))
    np.add.at(answers, row, apart)
    alone = apart.T @ apart
    inverse = np.linalg.pinv(alone, rcond=1e-9, hermitian=True)
    questions = float(np.trace(inverse @ alone))
    return max(1.0, float(np.trace(inverse @ answers.T @ answers)) / questions) if questions else 1.0


def survival_floor(seen: Observations) -> Floats:
    """What prefix survival was at least, float64 [γ], non-increasing: Wilson's lower bounds, 95 %; 0 without rounds."""
    label, real = seen.outcomes
    tried = real.sum(axis=0)
    share = (label & real).sum(axis=0) / np.maximum(tried, 1)
    z = _CONFIDENCE_Z
    tries = np.maximum(tried, 1)
    spread = z * np.sqrt(share * (1 - share) / tries + z * z / (4 * tries * tries))
    low = (share + z * z / (2 * tries) - spread) / (1 + z * z / tries)
    return np.minimum.accumulate(np.where(tried > 0, np.maximum(low, 0.0), 0.0))


def refit(
    present: tuple[Floats | None, Sequence[SurvivalMap] | None],
    seen: Observations,
    half: NDArray[np.bool_],
    above: float = ADOPTED_ABOVE,
) -> Refit | None:
    """A better calibration than the `present` temperatures and maps; None where noise may be all.

    Tried are temperatures alone (the paper's STS), and maps after the old and after the new temperatures. Each half of
    the rounds [N] is predicted by what was fitted on the other one. The one of the best Brier score is taken, fitted on
    all rounds, if neither that score nor its calibration error is worse than the present one's, and either is clearly
    better: the score by more than `above` standard errors between answers, or the error of many rounds by a quarter.
    """
    old, maps = present
    start = np.ones(seen.confidence.shape[1]) if old is None else old
    now = prefix_survival(seen.confidence, old, maps)
    crossed = [np.empty_like(now) for _ in range(3)]
    for fit, held in ((half, ~half), (~half, half)):
        for survival, found in zip(crossed, _fitted(start, seen.where(fit)), strict=True):
            survival[held] = prefix_survival(seen.confidence[held], *found)
    gains = [_brier(now, seen) - _brier(survival, seen) for survival in crossed]
    best = max(range(len(gains)), key=lambda place: float(gains[place].sum()))
    _, row = np.unique(seen.owner, return_inverse=True)
    noise = float(np.linalg.norm(np.bincount(row, weights=gains[best] - gains[best].mean())))
    gain = float(gains[best].sum())
    error = _mean_ece(crossed[best], seen) / max(_mean_ece(now, seen), 1e-9)
    clear = len(half) >= MANY and error < CLEARLY_LESS
    if gain <= 0 or error > 1 or not (clear or gain > above * noise):
        return None
    newest = np.arange(len(half)) >= len(half) - JUDGED
    return Refit(*_fitted(start, seen)[best], disagreement(crossed[best][newest], seen.where(newest)))


def _fitted(start: Floats, seen: Observations) -> list[tuple[Floats, tuple[SurvivalMap, ...] | None]]:
    new = fit_temperatures(seen, GRID, BINS, start)
    return [(new, None), (start, fit_maps(seen, start)), (new, fit_maps(seen, new))]


def report(
    key: tuple[str, str], survival: Floats, seen: Observations, *, trusted: bool, breaks: int, refits: int
) -> CalibrationReport:
    """What the predictions `survival` [N, γ] of one (rule, class) were worth, slot by slot."""
    label, real = seen.outcomes
    errors: list[float | None] = []
    order: list[float | None] = []
    brier: list[float | None] = []
    for slot in range(survival.shape[1]):
        here = real[:, slot]
        chance, accepted = survival[here, slot], label[here, slot]
        errors.append(ece(chance, accepted, BINS) if here.any() else None)
        order.append(auc(chance, accepted))
        brier.append(float(np.mean((chance - accepted) ** 2)) if here.any() else None)
    samples = tuple(real.sum(axis=0).tolist())
    return CalibrationReport(*key, samples, tuple(errors), tuple(order), tuple(brier), trusted, breaks, refits)


def _brier(survival: Floats, seen: Observations) -> Floats:
    """Summed over a round's slots, float64 [N]."""
    label, real = seen.outcomes
    return np.asarray((real * (survival - label) ** 2).sum(axis=1))


def _mean_ece(survival: Floats, seen: Observations) -> float:
    label, real = seen.outcomes
    slots = [slot for slot in range(survival.shape[1]) if real[:, slot].any()]
    return float(np.mean([ece(survival[real[:, s], s], label[real[:, s], s], BINS) for s in slots])) if slots else 0.0
