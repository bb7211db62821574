"""What was learnt from outcomes, as a frozen value: how far predictions are off, and how long answers get."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

__all__ = ["Corrections", "OutputLength", "Spread", "cell_of", "upper_share"]

_WHOLE = 0.95
_PROMPT_EDGES = (64, 256, 1024, 4096)


@lru_cache(maxsize=64)
def upper_share(quantile: float) -> float:
    """How far a quantile is from the median, in distances of the 90 % quantile on a normal distribution."""
    return NormalDist().inv_cdf(quantile) / NormalDist().inv_cdf(0.9)


def _load_bucket(requests: int, places: int) -> str:
    """How busy a replica is with so many requests running or queued: what they do to each other differs by it."""
    if requests == 0:
        return "idle"
    if not places or requests * 4 <= places:
        return "light"
    return "busy" if requests < places else "full"


def _prompt_bucket(tokens: int) -> str:
    """Length class of a prompt, by its upper edge."""
    return next((f"to{edge}" for edge in _PROMPT_EDGES if tokens <= edge), "longer")


def cell_of(model: str, requests: int, places: int, prompt_tokens: int) -> str:
    """What is known of times is kept by this: `model/load/prompt`."""
    return f"{model}/{_load_bucket(requests, places)}/{_prompt_bucket(prompt_tokens)}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Where outcome ÷ raw prediction lies: natural logarithms of its median and of its 90 % quantile."""

    median: float = 0.0
    upper: float = math.log(1.4)

    def moved(self, shift: float) -> Spread:
        """As wide, and off by so much more."""
        return Spread(self.median + shift, self.upper + shift)

    def at(self, quantile: float) -> float:
        """Logarithm of the ratio at a quantile; the three are on one normal distribution's scale."""
        return self.median + (self.upper - self.median) * upper_share(quantile)


@dataclass(frozen=True, slots=True)
class OutputLength:
    """Lengths of answers of one kind in tokens, at these quantiles: (quantile, tokens), ascending in both.

    Beyond the last one answers are taken to go on to their limit; from 0.95 on there is nothing worth asking beyond.
    No points: nothing is known, and lengths are taken to be exponential around the policy's expectation.
    """

    points: tuple[tuple[float, float], ...] = ()

    def mean(self, limit: int, default: int) -> int:
        """Expected length of an answer that ends at `limit` at the latest."""
        if not self.points:
            return min(limit, default)
        points = self.points if self.points[-1][0] >= _WHOLE else (*self.points, (1.0, float(limit)))
        edges = (0.0, *((left + right) / 2 for (left, _), (right, _) in pairwise(points)), 1.0)
        shares = (right - left for left, right in pairwise(edges))
        return max(1, round(sum(share * min(limit, each) for share, (_, each) in zip(shares, points, strict=True))))

    def at(self, quantile: float, limit: int, default: int) -> int:
        """Length that the share `quantile` of such answers does not pass; at 1 it is the limit."""
        if quantile >= 1.0:
            return limit
        if not self.points:
            return min(limit, math.ceil(-math.log1p(-quantile) * default))
        before = (0.0, 0.0)
        for point in (*self.points, (1.0, float(limit))):
            if quantile <= point[0]:
                share = (quantile - before[0]) / max(point[0] - before[0], 1e-9)
                return max(1, min(limit, math.ceil(before[1] + share * (point[1] - before[1]))))
            before = point
        return limit


_NO_SPREAD, _NO_LENGTH = Spread(), OutputLength()


@dataclass(frozen=True, slots=True)
class Corrections:
    """A predictor's state at one moment, as `decide` takes it and an event can carry it.

    ttft, tpot: spreads by `model/load/prompt` and, for cells never seen, by `model`. lengths: by `tenant/domain/model`,
    then `domain/model`, then `model`. survival: by `model/domain/tenant` and `model/domain`, by how much more (or
    less) of a draft is accepted than the replica's mean says. The one that says most about a request is used.
    replicas: those that are slower or faster than their model's others, by the logarithm of how much: (TTFT, TPOT).
    """

    version: str = ""
    ttft: Mapping[str, Spread] = field(default_factory=dict)
    tpot: Mapping[str, Spread] = field(default_factory=dict)
    lengths: Mapping[str, OutputLength] = field(default_factory=dict)
    survival: Mapping[str, float] = field(default_factory=dict)
    replicas: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def spreads(
        self, model: str, requests: int, places: int, prompt_tokens: int, replica: str = ""
    ) -> tuple[Spread, Spread]:
        """Of TTFT and TPOT on a replica with so many requests; without its name, of the model's."""
        if not self.ttft:
            return _NO_SPREAD, _NO_SPREAD
        cell = cell_of(model, requests, places, prompt_tokens)
        ttft = self.ttft.get(cell) or self.ttft.get(model) or _NO_SPREAD
        tpot = self.tpot.get(cell) or self.tpot.get(model) or _NO_SPREAD
        own = self.replicas.get(replica)
        return (ttft, tpot) if own is None else (ttft.moved(own[0]), tpot.moved(own[1]))

    def length(self, tenant: str, domain: str, model: str) -> OutputLength:
        """Of answers to such a request."""
        keys = (f"{tenant}/{domain}/{model}", f"{domain}/{model}", model)
        return next((self.lengths[key] for key in keys if key in self.lengths), _NO_LENGTH)

    def accepted_ratio(self, tenant: str, domain: str, model: str) -> float:
        """Drafted tokens accepted ÷ what the replica's own mean over all traffic foretells."""
        keys = (f"{model}/{domain}/{tenant}", f"{model}/{domain}")
        return next((self.survival[key] for key in keys if key in self.survival), 1.0)
