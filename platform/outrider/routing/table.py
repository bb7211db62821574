"""All n candidates of a request as columns [n], what the hard limits leave of them, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.policy import Balance, Objective
from outrider.routing.prediction import Floats, Integers, Prediction
from outrider.routing.roads import Road
from outrider.types import Budgets

__all__ = ["LIMITS", "Table", "feasible", "ranked", "target_miss"]

Flags = NDArray[np.bool_]

LIMITS = ("ttft", "tpot", "deadline")
"""Hard limits that depend on load, by the stem of their name on the wire: ttft_ms, tpot_ms, deadline_ms."""

# Below these amounts a difference is not worth a trade; they also keep logarithms finite.
_LEAST_SECONDS, _LEAST_USD, _LEAST_QUALITY = 1e-6, 1e-9, 1e-3


@dataclass(frozen=True, slots=True)
class Table:
    """Columns over all roads. `road` and `slot` say which road a candidate is on and where in its grid."""

    road: Integers
    slot: Integers
    depth: Integers
    estimate: Prediction
    margin: Prediction
    """The estimate widened by the age of each road's snapshot."""
    cost_usd: Floats
    quality: Floats

    @classmethod
    def of(cls, roads: Sequence[Road]) -> Table:
        """Stack the candidates of one road or more."""
        sizes = [road.grid.depths.size for road in roads]
        return cls(
            road=np.repeat(np.arange(len(roads)), sizes),
            slot=np.concatenate([np.arange(size) for size in sizes]),
            depth=np.concatenate([road.grid.depths for road in roads]),
            estimate=_stacked([road.estimate for road in roads]),
            margin=_stacked([road.estimate.widened(road.widening) for road in roads]),
            cost_usd=np.repeat([road.cost_usd for road in roads], sizes),
            quality=np.repeat([road.quality for road in roads], sizes),
        )


def _stacked(parts: Sequence[Prediction]) -> Prediction:
    return Prediction(
        np.concatenate([part.ttft_s for part in parts]),
        np.concatenate([part.tpot_s for part in parts]),
        np.concatenate([part.e2e_s for part in parts]),
    )


def feasible(prediction: Prediction, budgets: Budgets) -> dict[str, Flags]:
    """For each hard limit that the request sets: which candidates keep it."""
    columns = (prediction.ttft_s, prediction.tpot_s, prediction.e2e_s)
    limits = (budgets.ttft_s, budgets.tpot_s, budgets.deadline_s)
    each = zip(LIMITS, columns, limits, strict=True)
    return {name: column <= limit for name, column, limit in each if limit is not None}


def target_miss(prediction: Prediction, ttft_s: float | None, tpot_s: float | None) -> Floats:
    """By how much, relative to it, each candidate misses the soft targets; 0 where both are kept."""
    miss = np.zeros_like(prediction.ttft_s)
    for column, target in ((prediction.ttft_s, ttft_s), (prediction.tpot_s, tpot_s)):
        if target is not None:
            miss += np.maximum(column / target - 1.0, 0.0)
    return miss


def ranked(table: Table, miss: Floats, objective: Objective, balance: Balance) -> tuple[Integers, Floats]:
    """Order of all candidates, best first, and the score the objective gave each (smaller is better).

    Soft targets come first, then the objective, then whatever is left to tell two candidates apart, down to the
    order of models, classes and depths: deterministic, and never one that another candidate beats in all.
    """
    times, score = table.margin, _score(table, objective, balance)
    ties = (times.e2e_s, table.cost_usd, -table.quality, times.ttft_s, times.tpot_s, table.road, table.slot)
    return np.lexsort((*reversed(ties), score, miss)), score


def _score(table: Table, objective: Objective, balance: Balance) -> Floats:
    if objective == "cheapest":
        return table.cost_usd
    if objective == "fastest":
        return table.margin.e2e_s
    if objective == "best_quality":
        return -table.quality
    logarithm: Floats = (
        balance.latency * np.log(table.margin.e2e_s + _LEAST_SECONDS)
        + balance.cost * np.log(table.cost_usd + _LEAST_USD)
        - balance.quality * np.log(table.quality + _LEAST_QUALITY)
    )
    return logarithm
