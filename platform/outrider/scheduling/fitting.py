"""Fitting calibration: temperatures and maps from rounds whose outcome is known, and measures of the fit. NumPy only.

Sequential temperature scaling is the paper's (DSpark, section 4). Monotone maps of prefix survival come after it and
are ours: the confidence head learns the chance of a match at temperature 1, and how often greedy answers agree with it
is no sigmoid of that, so temperatures alone leave greedy traffic miscalibrated.

Shapes: N rounds, γ slots. Labels are 1[accepted prefix ≥ k]; a round counts for slot k only where the answer still had
a k-th token to compare with, whatever happened before it: keeping failures and dropping what was cut would bias.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from outrider.scheduling.calibration import SurvivalMap

__all__ = ["Played", "auc", "ece", "fit_maps", "fit_temperatures", "isotonic"]

MAP_POINTS = 20
FEWEST_PER_POINT = 40
_TOGETHER = 1 << 16

Floats = NDArray[np.float64]


class Played(Protocol):
    """N rounds at full depth. confidence: logits fp32 [N, γ], minus infinity where nothing was proposed; run: accepted
    tokens int64 [N]; left: slots that had an outcome, int64 [N].
    """

    @property
    def confidence(self) -> NDArray[np.float32]: ...
    @property
    def run(self) -> NDArray[np.int64]: ...
    @property
    def left(self) -> NDArray[np.int64]: ...


def fit_temperatures(rounds: Played, grid: Floats, bins: int, start: Floats | None = None) -> Floats:
    """T_k > 0 float64 [γ]: slot by slot, the grid's minimiser of the ECE of prefix survival, earlier slots frozen.

    Among equally good ones the nearest to `start` [γ], by default 1, wins; a slot that no round reaches keeps it
    (DSpark, section 4).
    """
    temperatures = np.ones(rounds.confidence.shape[1]) if start is None else start.copy()
    before = np.ones(len(rounds.run))
    for slot in range(len(temperatures)):
        ordered = grid[np.argsort(np.abs(np.log(grid / temperatures[slot])), kind="stable")]
        logits = rounds.confidence[:, slot].astype(np.float64)
        real = rounds.left > slot
        if real.any():
            label = rounds.run[real] > slot
            # as many temperatures at once as stay small: one by one, a refit while serving took 25 ms
            together = max(1, _TOGETHER // len(label))
            parts = [ordered[at : at + together, None] for at in range(0, len(ordered), together)]
            errors = [_eces(before[real] * _sigmoid(logits[real] / part), label, bins) for part in parts]
            temperatures[slot] = ordered[int(np.argmin(np.concatenate(errors)))]
        before = before * _sigmoid(logits / temperatures[slot])
    return temperatures


def fit_maps(rounds: Played, temperatures: Floats) -> tuple[SurvivalMap, ...]:
    """γ non-decreasing maps of prefix survival at T [γ]: slot by slot, earlier slots frozen.

    Through the means of up to 20 bins that hold equally many rounds, made monotone. A bin counts one round more than
    it has, whose label is the unmapped chance: no output is 0 or 1, so no proposed slot ever looks unproposed. A slot
    that too few rounds reach for two bins keeps the identity.
    """
    maps: list[SurvivalMap] = []
    before = np.ones(len(rounds.run))
    for slot in range(rounds.confidence.shape[1]):
        chance = before * _sigmoid(rounds.confidence[:, slot].astype(np.float64) / temperatures[slot])
        real = (rounds.left > slot) & (chance > 0)
        maps.append(_fit_map(chance[real], rounds.run[real] > slot))
        before = np.minimum(before, maps[slot](chance))
    return tuple(maps)


def _fit_map(chance: Floats, label: NDArray[np.bool_]) -> SurvivalMap:
    count = min(MAP_POINTS, len(chance) // FEWEST_PER_POINT)
    edges = np.unique(np.quantile(chance, np.arange(1, count) / count)) if count > 1 else np.array([])
    order = np.argsort(chance)
    ascending = chance[order]
    starts = np.unique(np.searchsorted(ascending, np.concatenate(([-np.inf], edges))))
    starts = starts[starts < len(chance)]
    if len(starts) < 2:
        return SurvivalMap(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    ends = np.append(starts[1:], len(chance))
    # rounding may put a mean outside of its bin, and inputs have to ascend
    means = np.asarray(np.add.reduceat(ascending, starts) / (ends - starts), dtype=np.float64)
    means = means.clip(ascending[starts], ascending[ends - 1])
    weights = (ends - starts).astype(np.float64) + 1.0
    outputs = (np.add.reduceat(label[order].astype(np.float64), starts) + means) / weights
    return SurvivalMap(means, isotonic(outputs, weights))


def isotonic(values: Floats, weights: Floats) -> Floats:
    """The non-decreasing float64 [P] nearest to `values` [P] in weighted squares, by pooling adjacent violators."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, members = value, weight, 1
        while pools and pools[-1][0] >= mean:
            left, heavy, many = pools.pop()
            mean = (left * heavy + mean * total) / (heavy + total)
            total, members = heavy + total, members + many
        pools.append((mean, total, members))
    means, _, sizes = zip(*pools, strict=True) if pools else ((), (), ())
    return np.repeat(np.array(means, dtype=np.float64), np.array(sizes, dtype=np.int64))


def ece(chance: Floats, label: NDArray[np.bool_], bins: int) -> float:
    """Expected calibration error: Σ_b n_b/N·|mean label − mean chance| over equally wide bins of [0, 1]."""
    return float(_eces(chance[None], label, bins)[0])


def _eces(chances: Floats, label: NDArray[np.bool_], bins: int) -> Floats:
    """As `ece`, of G predictions [G, N] of the same labels [N]; float64 [G]."""
    owner = np.minimum((chances * bins).astype(np.int64), bins - 1) + bins * np.arange(len(chances))[:, None]
    gap = np.bincount(owner.ravel(), weights=(label - chances).ravel(), minlength=bins * len(chances))
    return np.asarray(np.abs(gap.reshape(len(chances), bins)).sum(axis=1) / len(label))


def _sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def auc(score: Floats, label: NDArray[np.bool_]) -> float | None:
    """Chance that an accepted prefix has a higher score than a rejected one, ties half."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))
