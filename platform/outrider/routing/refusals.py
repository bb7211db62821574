"""Which error a request gets when no road is open, and what it says would have been possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from outrider.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    NoFeasibleRoute,
    NotReady,
    OutriderError,
)
from outrider.routing.choice import BREAKS, Flags
from outrider.routing.forecast import Forecast
from outrider.routing.query import RouteQuery
from outrider.routing.roads import Closed, Closure

__all__ = ["all_closed", "no_candidate"]

_READY_RETRY_S = 2.0
_RETRY_RANGE_S = (0.1, 30.0)


def all_closed(closures: Sequence[Closure]) -> OutriderError:
    """The error when every model is closed: the one that trying again may cure comes first."""
    kinds = {closure.kind for closure in closures}
    message = "; ".join(closure.why for closure in closures)
    if Closed.NOT_READY in kinds:
        return NotReady(message, retry_after_s=_READY_RETRY_S)
    if Closed.CONTEXT in kinds:
        return ContextLengthExceeded(message, param="messages")
    if Closed.MONEY in kinds:
        return BudgetExhausted(message, param="max_cost_usd")
    return NoFeasibleRoute(message, param="quality" if Closed.QUALITY in kinds else "model")


def no_candidate(query: RouteQuery, found: Forecast, exists: Flags, keeps: Mapping[str, Flags]) -> NoFeasibleRoute:
    """The error when hard limits leave nothing: each limit that is out of reach, and the best one could get.

    A retry time is given when load is what stands in the way, and none when the replicas are idle already.
    """
    times, budgets = found.typical, query.budgets
    columns = dict(zip(BREAKS, (times.ttft_s, times.tpot_s, times.e2e_s), strict=True))
    limits = dict(zip(BREAKS, (budgets.ttft_s, budgets.tpot_s, budgets.deadline_s), strict=True))
    missed = [name for name, kept in keeps.items() if not (kept & exists).any()]
    parts, excess_s = [], 0.0
    for name in missed or keeps:
        column, limit = np.where(exists, columns[name], np.inf), limits[name] or 0.0
        road, _, depth = (int(each) for each in np.unravel_index(int(np.argmin(column)), column.shape))
        where = f"{found.roads[road].model.name} at depth {found.axes.depths[depth]}"
        best_s = float(column.min())
        parts.append(f"{name}_ms {limit * 1e3:g} (best now {best_s * 1e3:.1f}, {where})")
        excess_s = max(excess_s, best_s - limit)
    text = "no candidate keeps " + (" or ".join(parts) if missed else "all at once " + " and ".join(parts))
    busy = any(road.snapshot.running_requests or road.snapshot.queued_requests for road in found.roads)
    retry_s = min(max(excess_s, _RETRY_RANGE_S[0]), _RETRY_RANGE_S[1]) if busy else None
    tail = "" if busy else "; the replicas are idle, so waiting will not help"
    return NoFeasibleRoute(text + tail, param=f"{missed[0]}_ms" if missed else None, retry_after_s=retry_s)
