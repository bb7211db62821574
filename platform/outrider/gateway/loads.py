"""What stands behind the gateway: every model's replicas, what they have to do, and what was just sent there."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from outrider.gateway.credit import InFlightCredit
from outrider.gateway.line import Ahead
from outrider.gateway.prefixes import Prefixes
from outrider.gateway.upstream import Upstream
from outrider.types import Decision, GenerationRequest, LoadSnapshot

__all__ = ["Loads"]

SLACK = 8
"""One request more than fits is sent for every so many that fit: an engine must not idle until the gateway hears."""


class Loads:
    """By model, read live from `upstreams`."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self.upstreams = upstreams
        self.prefixes = Prefixes()
        self._credits: defaultdict[tuple[str, str], InFlightCredit] = defaultdict(InFlightCredit)

    def reported(self) -> dict[str, LoadSnapshot | None]:
        """What any replica of each model said last."""
        return {name: next(iter(upstream.snapshots()), None) for name, upstream in self.upstreams.items()}

    def credited(self, ahead: Mapping[str, Ahead] | None = None) -> dict[str, list[LoadSnapshot]]:
        """Every replica's, with what was sent there since, and what in this gateway's line would be `ahead`.

        The line is of a model, not of a replica: its replicas share it.
        """
        found = {}
        for name in self.upstreams:
            loads, before = self._loads_of(name), ahead.get(name) if ahead else None
            found[name] = [_behind(load, before, len(loads)) for load in loads] if before else loads
        return found

    def room(self, model: str) -> float:
        """Places free at a model, infinite where one does not say or nobody is there: then the router has the word."""
        loads = self._loads_of(model) if model in self.upstreams else []
        return sum(map(_room, loads)) if loads else math.inf

    def sent(self, decision: Decision, requests: Sequence[GenerationRequest]) -> None:
        """Work left for a replica that its next report may not know of."""
        credit = self._credits[decision.model, decision.replica]
        for request in requests:
            credit.dispatched(time.time(), len(request.prompt_token_ids))
        for salt, prompt in {(request.cache_salt, request.prompt_token_ids) for request in requests}:
            self.prefixes.sent(decision.replica, salt, prompt)

    def ended(self, decision: Decision, tenant: str, sequences: Iterable[Sequence[int]], cached_tokens: int) -> None:
        """A replica holds these prompts with their answers; of the prompts it had held so many tokens before."""
        for tokens in sequences:
            self.prefixes.sent(decision.replica, tenant, tokens)
        if decision.basis is not None:
            self.prefixes.happened(decision.replica, decision.basis.cached_tokens, cached_tokens)

    def _loads_of(self, model: str) -> list[LoadSnapshot]:
        return [self._credits[model, load.replica].applied(load) for load in self.upstreams[model].snapshots()]


def _room(load: LoadSnapshot) -> float:
    if not load.max_running_requests:
        return math.inf
    places = load.max_running_requests + max(1, load.max_running_requests // SLACK)
    return max(0, places - load.running_requests - load.queued_requests)


def _behind(load: LoadSnapshot, ahead: Ahead, replicas: int) -> LoadSnapshot:
    return replace(
        load,
        queued_requests=load.queued_requests + math.ceil(ahead.requests / replicas),
        queued_tokens=load.queued_tokens + math.ceil(ahead.prompt_tokens / replicas),
    )
