"""Algorithm 1 of the DSpark paper: admit draft tokens while they raise the expected throughput of the round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outrider.scheduling.baselines import everyone
from outrider.scheduling.curve import StepCostCurve
from outrider.scheduling.scheduler import Budget, Floats, Ints, Requests, RoundCosts, candidates, depths_of, running

__all__ = ["Algorithm1", "algorithm1"]


def algorithm1(
    survival: Floats,
    caps: Ints,
    curve: StepCostCurve,
    *,
    fixed_s: float = 0.0,
    other_tokens: int = 0,
    weights: Floats | None = None,
    most: int = -1,
) -> Ints:
    """Depth ℓ_r for each request, int64 [R].

    survival: prefix survival a_{r,j} = Π_{i≤j} c_{r,i}, float64 [R, γ], non-increasing along a row.
    caps: largest ℓ_r allowed, int64 [R].
    curve: T(B) of the target step; fixed_s is what the round costs besides (draft, transfer, bookkeeping).
    other_tokens: tokens in the same step that are not these requests' (prefill chunks).
    weights: w_r > 0 of each request, float64 [R]; without them all are 1, which is the algorithm as published.
    most: draft tokens admitted in all, below 0 for any number.

    Θ = τ / (fixed_s + T(B)) with τ = Σ_r w_r·(1 + Σ_{j≤ℓ_r} a_{r,j}) and B = other_tokens + Σ_r (1 + ℓ_r).
    Candidates are admitted in descending w·a, ties broken by slot and then request, never by token values, and the
    first one that does not strictly raise Θ stops the search. Early stopping keeps the depth of slot k free of anything
    drawn after it.
    """
    requests = len(survival)
    weight = np.ones(requests) if weights is None else weights
    gain, owner = candidates(weight[:, None] * survival, caps)
    steps = np.arange(gain.size + 1)
    expected = running(float(weight.sum()), gain)
    theta = expected / (fixed_s + curve.seconds_at(other_tokens + requests + steps))
    stops = (theta[1:] <= theta[:-1]).nonzero()[0]
    admitted = int(stops[0]) if stops.size else gain.size
    return depths_of(owner[: admitted if most < 0 else min(admitted, most)], requests)


@dataclass(frozen=True, slots=True)
class Algorithm1:
    """As published: everyone is drafted for, and blocks are cut by live confidences with early stopping."""

    name: str = "algorithm1"
    admissible: bool = True
    explores: bool = False
    paces: bool = False

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        """Everyone is drafted for."""
        return everyone(requests.caps, costs)

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """Depths by Algorithm 1 on the whole round's cost."""
        return algorithm1(
            survival,
            requests.caps,
            costs.step,
            fixed_s=costs.drafted_s + budget.draft_s,
            other_tokens=costs.other_tokens,
            weights=requests.weights,
            most=requests.room_tokens,
        )
