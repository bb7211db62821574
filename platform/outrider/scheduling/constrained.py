"""The constrained scheduler: TPOT floors first, then the rest by price, within caps, allowances and weights.

Maximises Σ_r w_r·(1 + Σ a) / T subject to Σ_{j≤ℓ_r} a_{r,j} + 1 ≥ needed_r where the cap allows it. This is Outrider's
own extension of Algorithm 1. Needs, order, caps and allowances are at least one round old; live are the prefix sums
already admitted and the running price, and an admitted token is never retracted, so that rejection stays lossless.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outrider.scheduling.asynchronous import best_budget, within_allowances
from outrider.scheduling.scheduler import Budget, Floats, Ints, Requests, RoundCosts, candidates, depths_of

__all__ = ["Constrained"]


@dataclass(frozen=True, slots=True)
class Constrained:
    """Floors, who needs most first, then candidates while they are worth more than λ, the price of one verified token.

    λ = Θ_w·(H(B+1) − H(B)), Θ_w running and H the lower convex hull of T: the raw slope of a staircase is zero, then a
    spike. With w = 1, no floors and a convex curve this is Algorithm 1's early stop.
    """

    name: str = "constrained"
    admissible: bool = True
    explores: bool = True
    paces: bool = True

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        """Whom to draft for, on what earlier rounds foretell; how much to verify is left to live confidences."""
        best = best_budget(requests, costs)
        return Budget(best.drafted, draft_s=best.draft_s)

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """Depths [R]: floors, then price."""
        floors = _floors(requests, survival)
        keys, owners = candidates(requests.weights[:, None] * survival, requests.caps)
        slots = _slots(owners, len(requests))
        first = slots < floors[owners]
        if first.any():
            order = np.lexsort((slots, -requests.needed[owners], ~first))
            order[int(first.sum()) :] = np.flatnonzero(~first)
            keys, owners, first = keys[order], owners[order], first[order]
        within = within_allowances(owners, requests)
        unpriced = int(np.count_nonzero(first[within]))
        admitted = _priced(keys[within], unpriced, requests, costs, budget)
        return depths_of(owners[within][:admitted], len(requests))


def _floors(requests: Requests, survival: Floats) -> Ints:
    """Slots admitted while 1 + Σ_{j≤ℓ} a_j < needed and ℓ < cap, int64 [R].

    Slot k is admitted on the sum over the slots before it, never on what the whole block could reach: that would leak
    what is drawn at k.
    """
    if not len(requests.needed):
        return np.zeros(len(requests), dtype=np.int64)
    proposed = np.minimum(np.count_nonzero(survival > 0, axis=1), requests.caps)
    before = 1.0 + np.cumsum(survival, axis=1) - survival
    floors: Ints = np.minimum(np.count_nonzero(before < requests.needed[:, None], axis=1), proposed)
    return floors


def _slots(owners: Ints, requests: int) -> Ints:
    """0-based slot of each candidate, int64 [N]: candidates of one request come in slot order."""
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=requests)
    starts = np.repeat(counts.cumsum() - counts, counts)
    slots = np.empty(len(owners), dtype=np.int64)
    slots[order] = np.arange(len(owners)) - starts
    return slots


def _priced(keys: Floats, unpriced: int, requests: Requests, costs: RoundCosts, budget: Budget) -> int:
    """How many candidates are admitted in this order: the unpriced ones, then those worth their price."""
    most = len(keys)
    emitted = requests.weights.sum() + np.concatenate(([0.0], np.cumsum(keys)))
    hull_s = costs.hull_s(len(requests), most)
    price = emitted[:-1] / (costs.drafted_s + budget.draft_s + hull_s[:-1]) * np.diff(hull_s)
    stops = np.flatnonzero(keys[unpriced:] <= price[unpriced:])
    return unpriced + (int(stops[0]) if len(stops) else most - unpriced)
