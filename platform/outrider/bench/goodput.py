"""What a load was worth: requests that kept their service levels, over all that were offered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from outrider.errors import ConfigurationError

__all__ = ["Fate", "Goodput", "Outcome", "Slo"]


class Fate(StrEnum):
    """How a request ended. CANCELLED: its client left because the load says so; nobody else's fault."""

    ANSWERED = "answered"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    FAILED = "failed"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request as its client saw it; times in seconds from the moment it was due, not from when it was sent.

    ttft_s is None without a first token, tpot_s without a second, e2e_s unless the answer came to its end.
    tokens: output tokens that reached the client. reason: a code for an end that was no answer. model: who answered,
    where the server tells.
    """

    fate: Fate
    tokens: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    reason: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Slo:
    """Service levels of a request in seconds, each inclusive, and who may answer it; what is None is not asked."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    models: frozenset[str] | None = None

    def kept(self, outcome: Outcome) -> bool:
        """Whether the answer came to its end within every level; one token has no pace to keep."""
        if outcome.fate is not Fate.ANSWERED or outcome.ttft_s is None:
            return False
        if self.models is not None and outcome.model not in self.models:
            return False
        pairs = ((outcome.ttft_s, self.ttft_s), (outcome.tpot_s, self.tpot_s), (outcome.e2e_s, self.e2e_s))
        return all(limit is None or seen is None or seen <= limit for seen, limit in pairs)


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests and output tokens of a load, and the part of them that kept every level.

    counted_s: from the beginning of the counted time until the last counted request ended, so that what an overloaded
    system still owes at the end of the arrivals is paid in its rates.
    """

    offered: int
    cancelled: int
    kept: int
    tokens: int
    kept_tokens: int
    counted_s: float

    @classmethod
    def of(cls, outcomes: Iterable[tuple[Outcome, Slo]], counted_s: float) -> Goodput:
        """Raises ConfigurationError when no time was counted."""
        if counted_s <= 0:
            raise ConfigurationError("nothing was measured: the counted time is empty")
        offered = cancelled = kept = tokens = kept_tokens = 0
        for outcome, slo in outcomes:
            good = slo.kept(outcome)
            offered, tokens = offered + 1, tokens + outcome.tokens
            cancelled += outcome.fate is Fate.CANCELLED
            kept, kept_tokens = kept + good, kept_tokens + good * outcome.tokens
        return cls(offered, cancelled, kept, tokens, kept_tokens, counted_s)

    @property
    def attainment(self) -> float | None:
        """Share of all offered requests that kept their levels; refused, failed and cancelled ones did not."""
        return self.kept / self.offered if self.offered else None

    @property
    def attainment_of_stayed(self) -> float | None:
        """The same share without those whose client left on purpose."""
        stayed = self.offered - self.cancelled
        return self.kept / stayed if stayed else None

    @property
    def requests_per_s(self) -> float:
        """Goodput: requests that kept every level, per second."""
        return self.kept / self.counted_s

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of those requests, per second."""
        return self.kept_tokens / self.counted_s
