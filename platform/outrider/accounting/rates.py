"""Token buckets: a limit per minute that may be used at once and comes back evenly."""

from __future__ import annotations

from collections.abc import Mapping

from outrider.accounting.messages import Resource
from outrider.policy import Limits

__all__ = ["Bucket", "Rates"]


class Bucket:
    """level: what may be taken now; below 0 after more was used than had been taken. Times are monotonic.

    Over any time T at most `limit + limit / 60 * T` is taken.
    """

    def __init__(self, limit: int, now_s: float) -> None:
        self.limit = limit
        self.level = float(limit)
        self._at_s = now_s

    def refill(self, limit: int, now_s: float) -> None:
        """Bring it to a moment, under a limit that may be another one than before."""
        self.limit = limit
        earned = max(0.0, now_s - self._at_s) * limit / 60.0
        self.level = min(float(limit), self.level + earned)
        self._at_s = max(self._at_s, now_s)

    def take(self, want: int, slice_share: float) -> int:
        """Up to `want`, or where there is plenty a larger slice of what is there."""
        granted = max(0, min(int(self.level), max(want, int(self.level * slice_share))))
        self.level -= granted
        return granted

    def give(self, amount: int) -> None:
        """Put unused tokens back, or (negative) take what was used without asking."""
        self.level = min(float(self.limit), self.level + amount)

    def wait_s(self, want: int) -> float:
        """Until `want` is there, if nobody takes any; a want above the limit waits for a full bucket."""
        return max(0.0, (min(want, self.limit) - self.level) * 60.0 / self.limit)


class Rates:
    """The buckets of all accounts, made when they are first needed."""

    def __init__(self, recent: Mapping[tuple[str, Resource], int], start_s: float) -> None:
        """recent: what was used by account in the minute before `start_s`; a bucket begins without it."""
        self._buckets: dict[tuple[str, Resource], Bucket] = {}
        self._recent, self._start_s = dict(recent), start_s

    def bucket(self, account: str, resource: Resource, limits: Limits, now_s: float) -> Bucket | None:
        """None where nothing limits it."""
        limit = limits.requests_per_minute if resource == "requests" else limits.tokens_per_minute
        if limit is None:
            return None
        bucket = self._buckets.get((account, resource))
        if bucket is None:
            bucket = self._buckets[account, resource] = Bucket(limit, self._start_s)
            bucket.level -= self._recent.pop((account, resource), 0)
        bucket.refill(limit, now_s)
        return bucket
