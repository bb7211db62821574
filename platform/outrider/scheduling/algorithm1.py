"""Algorithm 1 of the DSpark paper: admit draft tokens while they raise the expected throughput of the round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from outrider.scheduling.curve import StepCostCurve

__all__ = ["algorithm1"]


def algorithm1(
    survival: NDArray[np.float64],
    caps: NDArray[np.int64],
    curve: StepCostCurve,
    *,
    fixed_s: float = 0.0,
    other_tokens: int = 0,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Depth ℓ_r for each request, int64 [R].

    survival: prefix survival a_{r,j} = Π_{i≤j} c_{r,i}, float64 [R, γ], non-increasing along a row.
    caps: largest ℓ_r allowed, int64 [R].
    curve: T(B) of the target step; fixed_s is what the round costs besides (draft, transfer, bookkeeping).
    other_tokens: tokens in the same step that are not these requests' (prefill chunks).
    weights: w_r > 0 of each request, float64 [R]; without them all are 1, which is the algorithm as published.

    Θ = τ / (fixed_s + T(B)) with τ = Σ_r w_r·(1 + Σ_{j≤ℓ_r} a_{r,j}) and B = other_tokens + Σ_r (1 + ℓ_r).
    Candidates are admitted in descending w·a, ties broken by slot and then request, never by token values, and the
    first one that does not strictly raise Θ stops the search. Early stopping keeps the depth of slot k free of anything
    drawn after it.
    """
    requests, slots = survival.shape
    weight = np.ones(requests) if weights is None else weights
    owner, slot = (np.arange(slots) < caps[:, None]).nonzero()
    gain = (weight[:, None] * survival)[owner, slot]
    order = np.lexsort((owner, slot, -gain))
    gain, owner = gain[order], owner[order]

    base = other_tokens + requests
    steps = np.arange(gain.size + 1)
    expected = weight.sum() + np.concatenate(([0.0], np.cumsum(gain)))
    theta = expected / (fixed_s + curve.seconds_at(base + steps))
    stops = (theta[1:] <= theta[:-1]).nonzero()[0]
    admitted = int(stops[0]) if stops.size else gain.size
    return np.bincount(owner[:admitted], minlength=requests)
