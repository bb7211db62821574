"""Throughput against the speed one user sees: reading an arm's frontier at a service level, and the other way round.

A point is (tokens per second of one user, tokens per second of all) at one concurrency of one repetition.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Point", "Reading", "frontier", "speed_at", "throughput_at"]

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """A value on a frontier. `beyond`: the frontier ends before the level asked for, and this is its last value."""

    value: float
    beyond: bool = False


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats in both, fastest user first: speed falls and throughput rises along it."""
    kept: list[Point] = []
    for speed, rate in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not kept or rate > kept[-1][1]:
            kept.append((speed, rate))
    return kept


def throughput_at(points: Iterable[Point], speed: float) -> Reading | None:
    """Largest throughput at which a user still sees `speed`, linear between neighbours; None when nobody sees it."""
    curve = frontier(points)
    if not curve or speed > curve[0][0]:
        return None
    for (fast, low), (slow, high) in itertools.pairwise(curve):
        if speed >= slow:
            return Reading(low + (high - low) * (fast - speed) / (fast - slow))
    return Reading(curve[-1][1], beyond=speed < curve[-1][0])


def speed_at(points: Iterable[Point], throughput: float) -> Reading | None:
    """Largest speed of a user at which all together get `throughput`; None when they never do."""
    return throughput_at([(rate, speed) for speed, rate in points], throughput)
