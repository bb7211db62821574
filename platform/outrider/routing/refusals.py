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
from outrider.routing.query import RouteQuery
from outrider.routing.roads import Closed, Closure, Road
from outrider.routing.table import LIMITS, Flags, Table

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
    return NoFeasibleRoute(message, param="quality")


def no_candidate(query: RouteQuery, table: Table, roads: Sequence[Road], keeps: Mapping[str, Flags]) -> NoFeasibleRoute:
    """The error when hard limits leave nothing: each limit that is out of reach, and the best one could get.

    A retry time is given when load is what stands in the way, and none when the replicas are idle already.
    """
    columns = dict(zip(LIMITS, (table.estimate.ttft_s, table.estimate.tpot_s, table.estimate.e2e_s), strict=True))
    budgets = dict(zip(LIMITS, (query.budgets.ttft_s, query.budgets.tpot_s, query.budgets.deadline_s), strict=True))
    missed = [name for name, kept in keeps.items() if not kept.any()]
    parts, excess_s = [], 0.0
    for name in missed or keeps:
        best, limit = int(np.argmin(columns[name])), budgets[name] or 0.0
        where = f"{roads[table.road[best]].model.name} at depth {table.depth[best]}"
        parts.append(f"{name}_ms {limit * 1e3:g} (best now {columns[name][best] * 1e3:.1f}, {where})")
        excess_s = max(excess_s, float(columns[name][best]) - limit)
    text = "no candidate keeps " + (" or ".join(parts) if missed else "all at once " + " and ".join(parts))
    busy = any(road.snapshot.running_requests or road.snapshot.queued_requests for road in roads)
    retry_s = min(max(excess_s, _RETRY_RANGE_S[0]), _RETRY_RANGE_S[1]) if busy else None
    tail = "" if busy else "; the replicas are idle, so waiting will not help"
    return NoFeasibleRoute(text + tail, param=f"{missed[0]}_ms" if missed else None, retry_after_s=retry_s)
