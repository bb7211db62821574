"""Open loop: requests arrive when they are due whatever the engine does, and a part of them has a pace to keep."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from outrider.bench.arrivals import Times, renewal_times
from outrider.bench.goodput import Fate, Goodput, Outcome, Slo
from outrider.bench.prompts import Prompt
from outrider.bench.setup import requests_for
from outrider.bench.speculation.drive import Driver
from outrider.bench.speculation.grid import MIXED, shuffled
from outrider.engine import Engine
from outrider.errors import ConfigurationError
from outrider.types import GenerationRequest

__all__ = ["Arrivals", "Load", "Offered", "OpenRun", "offer", "open_loop", "pace_of", "summed_up"]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A cell of the open loop: gamma gaps of this coefficient of variation; 1 is Poisson."""

    cv: float

    def __str__(self) -> str:
        return "Poisson arrivals" if self.cv == 1 else f"gamma arrivals, cv {self.cv:g}"


@dataclass(frozen=True, slots=True)
class Load:
    """What is offered. Requests due in the first warm_up_s are answered and not counted; after drain_s more than the
    last arrival whoever has not ended is given up. tight_share: of requests that have a pace to keep."""

    arms: tuple[str, ...]
    cvs: tuple[float, ...]
    temperature: float
    duration_s: float
    warm_up_s: float
    drain_s: float
    tight_share: float
    max_tokens: int
    streams: int
    repetitions: int

    def __post_init__(self) -> None:
        if not self.warm_up_s < self.duration_s:
            raise ConfigurationError("warm_up_s must be less than duration_s: nothing would count", param="duration_s")

    def as_dict(self) -> dict[str, Any]:
        """As a file holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Offered:
    """Requests, when each is due, and which of them have a pace to keep."""

    requests: list[GenerationRequest]
    due_s: Times
    tight: frozenset[str]

    def paced(self, tpot_target_s: float) -> Offered:
        """The same, the engine told of the pace."""
        told = [
            replace(each, tpot_target_s=tpot_target_s) if each.request_id in self.tight else each
            for each in self.requests
        ]
        return Offered(told, self.due_s, self.tight)


@dataclass(frozen=True, slots=True)
class OpenRun:
    """One arm under one load, of the requests that count; whoever was not answered has kept nothing.

    kept: of all, tight ones within their pace, others answered. tokens, kept_tokens: of all and of those, in counted_s.
    """

    offered: int
    answered: int
    kept: int
    tight_offered: int
    tight_kept: int
    tokens: int
    kept_tokens: int
    counted_s: float
    tight_tpot_p50_s: float | None
    other_tpot_p50_s: float | None
    ttft_p50_s: float | None

    @property
    def tight_attainment(self) -> float | None:
        """Share of the tight tier that kept its pace; None when none of it was offered."""
        return self.tight_kept / self.tight_offered if self.tight_offered else None

    @property
    def rate(self) -> float:
        """Tokens per second of everybody."""
        return self.tokens / self.counted_s


def offer(load: Load, prompts: Sequence[Prompt], rate_per_s: float, cv: float, repetition: int) -> Offered:
    """The same for every arm, and something else in every repetition; −1 is the trial's."""
    random = np.random.default_rng([repetition + 1, round(cv * 1000)])
    due_s = renewal_times(rate_per_s, load.duration_s, random, cv=cv)
    chosen = list(shuffled(prompts, MIXED, repetition))
    tokens = [chosen[place % len(chosen)].tokens for place in range(len(due_s))]
    seed = 1_000_000 * (repetition + 2)
    requests = requests_for(tokens, load.max_tokens, temperature=load.temperature, seed=seed)
    tight = random.random(len(due_s)) < load.tight_share
    return Offered(
        requests, due_s, frozenset(r.request_id for r, is_tight in zip(requests, tight, strict=True) if is_tight)
    )


def open_loop(engine: Engine, offered: Offered, *, drain_s: float) -> tuple[dict[str, Outcome], float]:
    """Every request's outcome, and the seconds it all took. One thread submits between the engine's steps.

    A request that falls due during a step waits for its end, and its latencies count from when it was due.
    """
    driver = Driver(engine)
    requests, due_s = offered.requests, offered.due_s.tolist()
    next_ = 0
    started = time.perf_counter()
    while next_ < len(requests) or driver.in_flight:
        now_s = time.perf_counter() - started
        while next_ < len(requests) and due_s[next_] <= now_s:
            driver.submit(requests[next_], started + due_s[next_])
            next_ += 1
        if driver.in_flight:
            driver.step()
        elif next_ < len(requests):
            time.sleep(max(0.0, due_s[next_] - now_s))
        if next_ == len(requests) and now_s > due_s[-1] + drain_s:
            driver.give_up()
    return driver.outcomes, time.perf_counter() - started


def summed_up(load: Load, offered: Offered, outcomes: dict[str, Outcome], wall_s: float, pace_s: float) -> OpenRun:
    """What the counted requests came to. Raises ConfigurationError when none was counted."""
    counted = {
        request.request_id: outcomes[request.request_id]
        for request, due_s in zip(offered.requests, offered.due_s.tolist(), strict=True)
        if due_s >= load.warm_up_s
    }
    if not counted:
        raise ConfigurationError(
            "no request fell due in the counted time: a higher rate or a longer duration is needed"
        )
    slo = {name: Slo(tpot_s=pace_s) if name in offered.tight else Slo() for name in counted}
    counted_s = max(wall_s - load.warm_up_s, 1e-9)
    everybody = Goodput.of(((outcome, slo[name]) for name, outcome in counted.items()), counted_s)
    tight = Goodput.of(((o, slo[name]) for name, o in counted.items() if name in offered.tight), counted_s)
    answered = {name: outcome for name, outcome in counted.items() if outcome.fate is Fate.ANSWERED}
    return OpenRun(
        offered=everybody.offered,
        answered=len(answered),
        kept=everybody.kept,
        tight_offered=tight.offered,
        tight_kept=tight.kept,
        tokens=everybody.tokens,
        kept_tokens=everybody.kept_tokens,
        counted_s=counted_s,
        tight_tpot_p50_s=_median(o.tpot_s for name, o in answered.items() if name in offered.tight),
        other_tpot_p50_s=_median(o.tpot_s for name, o in answered.items() if name not in offered.tight),
        ttft_p50_s=_median(outcome.ttft_s for outcome in answered.values()),
    )


def pace_of(load: Load, offered: Offered, outcomes: dict[str, Outcome], attained: float) -> float:
    """The seconds per token that a share `attained` of the tight tier kept. Raises ConfigurationError without any."""
    seen = sorted(
        outcomes[request.request_id].tpot_s or np.inf
        for request, due_s in zip(offered.requests, offered.due_s.tolist(), strict=True)
        if request.request_id in offered.tight and due_s >= load.warm_up_s
    )
    pace_s = seen[max(0, int(attained * len(seen)) - 1)] if seen else np.inf
    if not np.isfinite(pace_s):
        raise ConfigurationError(
            "the trial answered too few of the tight tier: offer less, or for longer", param="rate"
        )
    return float(pace_s)


def _median(values: Any) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None
