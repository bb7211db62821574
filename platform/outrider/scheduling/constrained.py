"""The constrained scheduler: TPOT floors first, then the rest by price, within caps, allowances and weights.

Maximises Σ_r w_r·(1 + Σ a) / T subject to Σ_{j≤ℓ_r} a_{r,j} + 1 ≥ needed_r where the cap allows it. This is Outrider's
own extension of Algorithm 1. Needs, order, caps and allowances are at least one round old; live are the prefix sums
already admitted and the running price, and an admitted token is never retracted, so that rejection stays lossless.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outrider.scheduling.asynchronous import best_budget, within_allowances
from outrider.scheduling.scheduler import (
    Budget,
    Floats,
    Ints,
    Requests,
    RoundCosts,
    candidates,
    depths_of,
    places_within,
    running,
)

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
        return Budget(best.drafted, draft_s=best.draft_s, gain=best.gain)

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """Depths [R]: floors, then price."""
        keys, owners = candidates(requests.weights[:, None] * survival, requests.caps)
        floors = 0
        if requests.needed.any():
            order, floors = _floors_first(requests, survival, owners)
            keys, owners = keys[order], owners[order]
        within = within_allowances(owners, requests)
        unpriced = int(np.count_nonzero(within[:floors]))
        admitted = _priced(keys[within], unpriced, requests, costs, budget)
        return depths_of(owners[within][:admitted], len(requests))


def _floors_first(requests: Requests, survival: Floats, owners: Ints) -> tuple[Ints, int]:
    """The candidates in another order, int64 [N], and how many that floors ask for come first, most needed first.

    A floor asks for the next slot while 1 + Σ_{j≤ℓ} a_j < needed: it looks at the slots before, never at what the whole
    block could reach, which would leak what is drawn there.
    """
    slots = places_within(owners, len(requests))
    before = np.ones_like(survival)
    before[:, 1:] += np.cumsum(survival[:, :-1], axis=1)
    asked = before[owners, slots] < requests.needed[owners]
    floor = np.flatnonzero(asked)
    floor = floor[np.lexsort((slots[floor], -requests.needed[owners[floor]]))]
    return np.concatenate((floor, np.flatnonzero(~asked))), len(floor)


def _priced(keys: Floats, unpriced: int, requests: Requests, costs: RoundCosts, budget: Budget) -> int:
    """How many candidates are admitted in this order: the unpriced ones, then those worth their price."""
    most = len(keys)
    emitted = running(float(requests.weights.sum()), keys)
    hull_s = costs.hull_s(len(requests), most)
    price = emitted[:-1] / (costs.drafted_s + budget.draft_s + hull_s[:-1]) * np.diff(hull_s)
    stops = np.flatnonzero(keys[unpriced:] <= price[unpriced:])
    return unpriced + (int(stops[0]) if len(stops) else most - unpriced)
