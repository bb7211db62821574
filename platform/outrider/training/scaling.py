"""Judging calibration: what the workshop reports of it. NumPy only; the fitting is `outrider.scheduling.fitting`'s.

Shapes: N rounds, γ slots. Labels are 1[accepted prefix ≥ k], as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.scheduling import prefix_survival
from outrider.scheduling.calibration import SurvivalMap
from outrider.scheduling.fitting import auc, ece
from outrider.training.rounds import Rounds

__all__ = ["judge", "reliability", "split_prompts"]

Floats = NDArray[np.float64]


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
        columns["auc"].append(auc(chance, label))
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


def _mean(column: Sequence[float | None]) -> float | None:
    known = [each for each in column if each is not None]
    return float(np.mean(known)) if known else None
