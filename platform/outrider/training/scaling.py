"""Calibration: fitting it, and judging it. NumPy only.

Sequential temperature scaling is the paper's (DSpark, section 4). Monotone maps of prefix survival come after it and
are ours: the confidence head learns the chance of a match at temperature 1, and how often greedy answers agree with it
is no sigmoid of that, so temperatures alone leave greedy traffic miscalibrated.

Shapes: N rounds, γ slots. Labels are 1[accepted prefix ≥ k]; a round counts for slot k only where the answer still had
a k-th token to compare with, whatever happened before it: keeping failures and dropping what was cut would bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.scheduling import prefix_survival
from outrider.scheduling.calibration import SurvivalMap
from outrider.training.rounds import Rounds

__all__ = ["ece", "fit_maps", "fit_temperatures", "isotonic", "judge", "reliability", "split_prompts"]

MAP_POINTS = 20
FEWEST_PER_POINT = 40

Floats = NDArray[np.float64]


def fit_temperatures(rounds: Rounds, grid: Floats, bins: int) -> Floats:
    """T_k > 0 float64 [γ]: slot by slot, the grid's minimiser of the ECE of prefix survival, earlier slots frozen.

    Among equally good ones the nearest to 1 wins; a slot that no round reaches keeps 1 (DSpark, section 4).
    """
    temperatures = np.ones(rounds.gamma)
    ordered = grid[np.argsort(np.abs(np.log(grid)), kind="stable")]
    before = np.ones(len(rounds.run))
    for slot in range(rounds.gamma):
        logits = rounds.confidence[:, slot].astype(np.float64)
        real = rounds.left > slot
        if real.any():
            label = rounds.run[real] > slot
            errors = [ece(before[real] * _sigmoid(logits[real] / each), label, bins) for each in ordered]
            temperatures[slot] = ordered[int(np.argmin(errors))]
        before = before * _sigmoid(logits / temperatures[slot])
    return temperatures


def fit_maps(rounds: Rounds, temperatures: Floats) -> tuple[SurvivalMap, ...]:
    """γ non-decreasing maps of prefix survival at T [γ]: slot by slot, earlier slots frozen.

    Through the means of up to 20 bins that hold equally many rounds, made monotone. A bin counts one round more than
    it has, whose label is the unmapped chance: no output is 0 or 1, so no proposed slot ever looks unproposed. A slot
    that too few rounds reach for two bins keeps the identity.
    """
    maps: list[SurvivalMap] = []
    before = np.ones(len(rounds.run))
    for slot in range(rounds.gamma):
        chance = before * _sigmoid(rounds.confidence[:, slot].astype(np.float64) / temperatures[slot])
        real = (rounds.left > slot) & (chance > 0)
        maps.append(_fit_map(chance[real], rounds.run[real] > slot))
        before = np.minimum(before, maps[slot](chance))
    return tuple(maps)


def _fit_map(chance: Floats, label: NDArray[np.bool_]) -> SurvivalMap:
    count = min(MAP_POINTS, len(chance) // FEWEST_PER_POINT)
    edges = np.unique(np.quantile(chance, np.arange(1, count) / count)) if count > 1 else np.array([])
    owner = np.searchsorted(edges, chance, side="right")
    bins = np.unique(owner)
    if len(bins) < 2:
        return SurvivalMap(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    inputs, outputs, weights = np.empty(len(bins)), np.empty(len(bins)), np.empty(len(bins))
    for place, each in enumerate(bins):
        inside = owner == each
        values = chance[inside]
        # rounding may put a mean outside of its bin, and inputs have to ascend
        inputs[place] = np.clip(values.mean(), values.min(), values.max())
        weights[place] = len(values) + 1
        outputs[place] = (label[inside].sum() + inputs[place]) / weights[place]
    return SurvivalMap(inputs, isotonic(outputs, weights))


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
    owner = np.minimum((chance * bins).astype(np.int64), bins - 1)
    gap = np.bincount(owner, weights=label - chance, minlength=bins)
    return float(np.abs(gap).sum() / len(chance))


def judge(
    rounds: Rounds,
    temperatures: Floats | None,
    bins: int,
    seed: int = 0,
    *,
    maps: Sequence[SurvivalMap] | None = None,
) -> dict[str, Any]:
    """Per slot and on average: ECE with the value that chance alone would give, AUC, Brier score, rounds.

    The floor is the mean ECE of labels drawn from the very chances: what a perfectly calibrated head would show on as
    many rounds. A slot without both outcomes has no AUC.
    """
    survival = prefix_survival(rounds.confidence, temperatures, maps)
    rng = np.random.default_rng(seed)
    columns: dict[str, list[float | None]] = {"ece": [], "floor": [], "auc": [], "brier": []}
    counts: list[int] = []
    for slot in range(rounds.gamma):
        real = rounds.left > slot
        chance, label = survival[real, slot], rounds.run[real] > slot
        counts.append(len(label))
        if not len(label):
            for column in columns.values():
                column.append(None)
            continue
        columns["ece"].append(ece(chance, label, bins))
        drawn = [ece(chance, rng.random(len(chance)) < chance, bins) for _ in range(20)]
        columns["floor"].append(float(np.mean(drawn)))
        columns["auc"].append(_auc(chance, label))
        columns["brier"].append(float(np.mean((chance - label) ** 2)))
    means = {f"mean_{name}": _mean(column) for name, column in columns.items()}
    return {**columns, **means, "rounds": counts}


def reliability(
    rounds: Rounds,
    temperatures: Floats | None,
    slot: int,
    bins: int,
    *,
    maps: Sequence[SurvivalMap] | None = None,
) -> list[tuple[float, float, int]]:
    """(mean chance, share accepted, rounds) of every bin that is not empty, for slot 1…γ."""
    real = rounds.left >= slot
    chance = prefix_survival(rounds.confidence, temperatures, maps)[real, slot - 1]
    label = rounds.run[real] >= slot
    owner = np.minimum((chance * bins).astype(np.int64), bins - 1)
    found = []
    for each in np.unique(owner):
        inside = owner == each
        found.append((float(chance[inside].mean()), float(label[inside].mean()), int(inside.sum())))
    return found


def split_prompts(prompts: Sequence[int], holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """(to fit on, to judge on): whole prompts, because rounds of one answer resemble each other."""
    order = np.random.default_rng(seed).permutation(sorted(set(prompts))).tolist()
    cut = len(order) - round(holdout * len(order))
    return sorted(order[:cut]), sorted(order[cut:])


def _sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def _auc(score: Floats, label: NDArray[np.bool_]) -> float | None:
    """Chance that an accepted prefix has a higher score than a rejected one, ties half."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _mean(column: Sequence[float | None]) -> float | None:
    known = [each for each in column if each is not None]
    return float(np.mean(known)) if known else None
