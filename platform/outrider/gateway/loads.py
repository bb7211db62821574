"""What stands behind the gateway: every model's replicas, what they have to do, and what was just sent there."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from outrider.gateway.credit import InFlightCredit
from outrider.gateway.line import Ahead
from outrider.gateway.upstream import Upstream
from outrider.types import Decision, GenerationRequest, LoadSnapshot

__all__ = ["Loads"]

SLACK = 8
"""One request more than fits is sent for every so many that fit: an engine must not idle until the gateway hears."""


class Loads:
    """By model, read live from `upstreams`."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self.upstreams = upstreams
        self._credits: defaultdict[str, InFlightCredit] = defaultdict(InFlightCredit)

    def reported(self) -> dict[str, LoadSnapshot | None]:
        """What each model said last."""
        return {name: upstream.snapshot() for name, upstream in self.upstreams.items()}

    def credited(self, ahead: Mapping[str, Ahead] | None = None) -> dict[str, LoadSnapshot]:
        """With what was sent since, and what in this gateway's line would be `ahead`, as queued there already."""
        found = {}
        for name, load in self.reported().items():
            if load is not None:
                load = self._credits[name].applied(load)
                before = ahead.get(name) if ahead else None
                found[name] = _behind(load, before) if before else load
        return found

    def room(self, model: str) -> float:
        """Places free at a model, infinite where it does not say or nobody is there: then the router has the word."""
        upstream = self.upstreams.get(model)
        load = upstream.snapshot() if upstream is not None else None
        if load is None or not load.max_running_requests:
            return math.inf
        load = self._credits[model].applied(load)
        places = load.max_running_requests + max(1, load.max_running_requests // SLACK)
        return max(0, places - load.running_requests - load.queued_requests)

    def sent(self, decision: Decision, requests: Iterable[GenerationRequest]) -> None:
        """Work left for a model that its next report may not know of."""
        for request in requests:
            self._credits[decision.model].dispatched(time.time(), len(request.prompt_token_ids))


def _behind(load: LoadSnapshot, ahead: Ahead) -> LoadSnapshot:
    return replace(
        load,
        queued_requests=load.queued_requests + ahead.requests,
        queued_tokens=load.queued_tokens + ahead.prompt_tokens,
    )
