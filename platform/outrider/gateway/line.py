"""The waiting line: who goes next, and who is sent home, when not everybody fits. Pure: time comes in as a number."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Ahead", "Line", "Waiter"]

RECENT = 64
"""Departures that the pace of the line is taken from."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in line for a model. places: of an engine's, one for each of its choices; since_s: when it came."""

    id: str
    tenant: str
    model: str
    priority: float
    since_s: float
    places: int = 1
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Ahead:
    """What would be served before a newcomer."""

    requests: int = 0
    prompt_tokens: int = 0


class _Band:
    """Waiters of one priority for one model; tenants take turns, each in its own order of arrival."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[str, Waiter] = OrderedDict()
        """By id, in order of arrival."""
        self.turns: OrderedDict[str, OrderedDict[str, Waiter]] = OrderedDict()
        """By tenant, whose turn it is first."""
        self.places = 0
        self.prompt_tokens = 0

    @property
    def oldest(self) -> Waiter:
        return next(iter(self.waiting.values()))

    @property
    def newest(self) -> Waiter:
        return next(reversed(self.waiting.values()))

    def add(self, waiter: Waiter) -> None:
        self.waiting[waiter.id] = waiter
        self.places += waiter.places
        self.prompt_tokens += waiter.prompt_tokens
        self.turns.setdefault(waiter.tenant, OrderedDict())[waiter.id] = waiter

    def remove(self, waiter: Waiter) -> None:
        del self.waiting[waiter.id]
        self.places -= waiter.places
        self.prompt_tokens -= waiter.prompt_tokens
        queue = self.turns[waiter.tenant]
        del queue[waiter.id]
        if not queue:
            del self.turns[waiter.tenant]

    def take(self) -> Waiter:
        """The first of the tenant whose turn it is, which then goes to the end of the ring."""
        tenant, queue = next(iter(self.turns.items()))
        waiter = next(iter(queue.values()))
        self.turns.move_to_end(tenant)
        self.remove(waiter)
        return waiter

    def least(self) -> Waiter:
        """The newest of the tenant with the most in line: whoever floods it loses its own."""
        longest = max(reversed(self.turns.values()), key=len)
        return next(reversed(longest.values()))


class Line:
    """Order: priority plus ageing for every second waited, of the oldest in a band (one priority, one model).

    Within a band tenants take turns. So a waiter is passed by at most: those whose priority is higher by more than it
    has aged, and one of each other tenant of its band for each of its own tenant before it.
    Every waiter leaves once: taken by `next`, shed by `join`, or by `leave`. Costs grow with the number of bands.
    """

    def __init__(self) -> None:
        self._bands: dict[tuple[float, str], _Band] = {}
        self._waiting: dict[str, Waiter] = {}
        self._left_s: deque[float] = deque(maxlen=RECENT)
        self._began_s = 0.0
        """When the line last became longer than nobody."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiting.values())

    def holds(self, model: str) -> bool:
        """Whether anybody waits for the model."""
        return any(each == model for _, each in self._bands)

    def join(self, waiter: Waiter, now_s: float, *, ageing_per_s: float, most: int) -> Waiter | None:
        """Stand in line; where that makes it longer than `most`, the one that has to go, which may be the newcomer."""
        if waiter.id in self._waiting:
            raise ValueError(f"{waiter.id} is already in line")
        if not self._waiting:
            self._began_s = now_s
            self._left_s.clear()
        self._waiting[waiter.id] = waiter
        self._bands.setdefault(_band_of(waiter), _Band()).add(waiter)
        if len(self._waiting) <= most:
            return None
        shed = min(self._bands.values(), key=_rank(lambda band: band.newest, now_s, ageing_per_s)).least()
        self._remove(shed)
        return shed

    def next(self, has_room: Callable[[str], bool], now_s: float, *, ageing_per_s: float) -> Waiter | None:
        """Take the one whose turn it is among those whose model has room."""
        open_ = [band for (_, model), band in self._bands.items() if has_room(model)]
        if not open_:
            return None
        band = max(open_, key=_rank(lambda band: band.oldest, now_s, ageing_per_s))
        waiter = band.take()
        self._remove(waiter, taken=True)
        self._left_s.append(now_s)
        return waiter

    def leave(self, waiter_id: str) -> bool:
        """Somebody gave up; False if they had left already."""
        waiter = self._waiting.get(waiter_id)
        if waiter is not None:
            self._remove(waiter)
        return waiter is not None

    def ahead(self, model: str, priority: float) -> Ahead:
        """Of a newcomer for a model: everybody there of its priority or above."""
        bands = [band for (each, name), band in self._bands.items() if name == model and each >= priority]
        return Ahead(sum(band.places for band in bands), sum(band.prompt_tokens for band in bands))

    def drain_s(self, now_s: float) -> float | None:
        """How long the whole line takes at its recent pace; None where nobody has left it lately."""
        if not self._left_s:
            return None
        began_s = self._left_s[0] if len(self._left_s) == RECENT else self._began_s
        return len(self) * max(now_s - began_s, 1e-3) / len(self._left_s)

    def _remove(self, waiter: Waiter, *, taken: bool = False) -> None:
        del self._waiting[waiter.id]
        key = _band_of(waiter)
        if not taken:
            self._bands[key].remove(waiter)
        if not self._bands[key].waiting:
            del self._bands[key]


def _band_of(waiter: Waiter) -> tuple[float, str]:
    return waiter.priority, waiter.model


def _rank(pick: Callable[[_Band], Waiter], now_s: float, ageing_per_s: float) -> Callable[[_Band], tuple[float, float]]:
    """Of a band by one of its waiters: effective priority, then the longer wait."""

    def rank(band: _Band) -> tuple[float, float]:
        waiter = pick(band)
        return waiter.priority + ageing_per_s * (now_s - waiter.since_s), -waiter.since_s

    return rank
