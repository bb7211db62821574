"""What the engine knows of its own load and of how its drafts fare: the numbers a snapshot carries."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np

from outrider.scheduling import StepCostCurve

__all__ = ["AcceptanceMeter", "Pace", "RoundMeters", "RoundTimes", "Smoothed", "Typical"]


class Smoothed:
    """An exponentially weighted mean; 0 before the first sample."""

    def __init__(self, weight: float = 0.1) -> None:
        self._weight = weight
        self.value = 0.0
        self.samples = 0

    def add(self, sample: float) -> None:
        """Take a sample; the first ones are averaged evenly, so that one cold start does not stick."""
        self.samples += 1
        weight = max(self._weight, 1.0 / self.samples)
        self.value += weight * (sample - self.value)


class Pace:
    """Seconds per token of a request: its share of time and tokens, both forgotten over a second of rounds."""

    _MEMORY_S = 1.0

    def __init__(self) -> None:
        self._whole_s = self._requests_s = self._tokens = 0.0

    @property
    def value(self) -> float:
        """0 before the first token."""
        return self._requests_s / self._tokens if self._tokens else 0.0

    @property
    def requests(self) -> float:
        """How many ran at a time, on average."""
        return self._requests_s / self._whole_s if self._whole_s else 0.0

    def add(self, whole_s: float, requests: int, tokens: int) -> None:
        """A round of so many decoding requests that emitted so many tokens."""
        kept = math.exp(-whole_s / self._MEMORY_S)
        self._whole_s = kept * self._whole_s + whole_s
        self._requests_s = kept * self._requests_s + whole_s * requests
        self._tokens = kept * self._tokens + tokens


class Typical:
    """The median of the last samples, for times that a busy host stretches now and then; 0 before the first."""

    def __init__(self, samples: int = 15) -> None:
        self._recent: deque[float] = deque(maxlen=samples)

    @property
    def samples(self) -> int:
        """How many it holds."""
        return len(self._recent)

    @property
    def value(self) -> float:
        return median(self._recent) if self._recent else 0.0

    def add(self, sample: float) -> None:
        self._recent.append(sample)


class AcceptanceMeter:
    """Conditional acceptance by slot, from rounds whose admitted depths differ.

    Slot k counts as tried when it was admitted and every slot before it was accepted; a trimmed slot says nothing.
    Counts decay, so the meter follows the traffic, and faster while nobody drafts: what it knew ages towards the prior
    (two tries at 0.7 a slot), so that a router which stopped drafting on bad news tries again.
    """

    _PRIOR_TRIES = 2.0
    _PRIOR_RATE = 0.7
    _DECAY = 0.999
    _IDLE_DECAY = 0.995

    def __init__(self, block_size: int) -> None:
        self._tried = np.zeros(block_size)
        self._accepted = np.zeros(block_size)

    @property
    def block_size(self) -> int:
        """Slots it counts."""
        return len(self._tried)

    def add(self, admitted: int, accepted: int) -> None:
        """One request's round: ℓ admitted draft tokens, a of them accepted."""
        if admitted == 0:
            return
        self._age(self._DECAY)
        self._tried[: min(admitted, accepted + 1)] += 1
        self._accepted[:accepted] += 1

    def pass_round(self) -> None:
        """A round in which nobody drafted."""
        self._age(self._IDLE_DECAY)

    def expected_tokens(self) -> tuple[float, ...]:
        """Expected emitted tokens of a round by depth cap: index ℓ is 1 + Σ_{k≤ℓ} Π_{i≤k} rate_i."""
        accepted = self._accepted + self._PRIOR_TRIES * self._PRIOR_RATE
        survival = np.cumprod(accepted / (self._tried + self._PRIOR_TRIES))
        return (1.0, *(float(1.0 + total) for total in np.cumsum(survival)))

    def _age(self, factor: float) -> None:
        self._tried *= factor
        self._accepted *= factor


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Where one step's time went, and how long the whole was foretold to take (0 where it was not), seconds."""

    draft_s: float
    schedule_s: float
    run_s: float
    commit_s: float
    tokens: int
    requests: int
    predicted_s: float = 0.0

    @property
    def whole_s(self) -> float:
        """The whole round."""
        return self.draft_s + self.schedule_s + self.run_s + self.commit_s


class RoundMeters:
    """Smoothed figures of recent rounds, and of the last one; what a snapshot says of them."""

    def __init__(self, block_size: int) -> None:
        self.acceptance = AcceptanceMeter(block_size)
        self.last: RoundTimes | None = None
        self.round_s, self.draft_s, self.rate = (Smoothed() for _ in range(3))
        self.pace = Pace()

    def follow(self, block_size: int) -> None:
        """What was learnt is of another drafter if its block size is another."""
        if self.acceptance.block_size != block_size:
            self.acceptance = AcceptanceMeter(block_size)

    def price(self, curve: StepCostCurve) -> float:
        """λ: tokens per second of recent rounds times what one token more takes in a step like the last one.

        On the hull of T: the raw slope is zero on a stair, then a spike.
        """
        tokens = self.last.tokens if self.last else 1
        return self.rate.value * (curve.hull.step_s(tokens + 1) - curve.hull.step_s(tokens))

    def add(self, times: RoundTimes, emitted_tokens: int) -> None:
        """A round that emitted so many tokens."""
        self.last = times
        if not times.requests:
            return
        self.round_s.add(times.whole_s)
        self.pace.add(times.whole_s, times.requests, emitted_tokens)
        if times.draft_s:
            self.draft_s.add(times.draft_s)
        else:
            self.acceptance.pass_round()
        self.rate.add(emitted_tokens / times.whole_s)
