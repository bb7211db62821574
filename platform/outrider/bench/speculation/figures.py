"""Figures of several repetitions: pairs within a repetition, spreads over them, anchors on frontiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from outrider.bench.speculation.arms import FIXED_1
from outrider.bench.speculation.drive import Run
from outrider.bench.speculation.frontier import Point, Reading, speed_at, throughput_at
from outrider.bench.speculation.grid import MIXED, Cell, Turn
from outrider.bench.spread import Spread, ratios

__all__ = ["ANCHORS", "Anchored", "Figures", "Results", "cpu_rate", "wall_rate"]

Results = Mapping[Turn[Cell], Mapping[str, Run]]
"""Of every finished turn, each arm's run."""

ANCHORS = (0.5, 0.75)
"""Shares of fixed 1's single-stream speed that a service level may promise a user."""


def wall_rate(run: Run) -> float:
    """Tokens per second."""
    return run.rate


def cpu_rate(run: Run) -> float:
    """Tokens per second of the process's own time."""
    return run.cpu_rate


@dataclass(frozen=True, slots=True)
class Anchored:
    """Fixed 1 and another arm at one anchor; an empty value where no repetition reaches it.

    speed: of the anchor. throughput, base_throughput: at that speed. matched: speed at base_throughput ÷ the anchor's.
    beyond: some frontier ended before the anchor; its value at the largest concurrency is what is there, a lower bound.
    """

    speed: Spread
    base_throughput: Spread | None
    throughput: Spread | None
    gained: Spread | None
    matched: Spread | None
    beyond: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """What the tables and pictures ask of finished turns."""

    results: Results

    def runs(self, cell: Cell, arm: str) -> list[Run]:
        """Of every finished repetition, in order: the same repetitions for every arm."""
        turns = sorted((turn.repetition, runs) for turn, runs in self.results.items() if turn.cell == cell)
        return [runs[arm] for _, runs in turns]

    def spread(self, cell: Cell, arm: str, of: Callable[[Run], float | None]) -> Spread | None:
        """Over repetitions; None when none has a value."""
        values = [value for run in self.runs(cell, arm) if (value := of(run)) is not None]
        return Spread.of(values) if values else None

    def ratio(self, cell: Cell, above: str, below: str, of: Callable[[Run], float] = wall_rate) -> Spread | None:
        """Throughput ÷ throughput, repetition by repetition."""
        pairs = list(zip(self.runs(cell, above), self.runs(cell, below), strict=True))
        return ratios([of(a) for a, _ in pairs], [of(b) for _, b in pairs]) if pairs else None

    def best_fixed(self, cell: Cell, arms: Sequence[str], of: Callable[[Run], float] = wall_rate) -> str | None:
        """The fixed depth of largest median throughput; the largest of each repetition would choose its luck."""
        fixed = [arm for arm in arms if arm.startswith("fixed:")]
        rates = {arm: spread.median for arm in fixed if (spread := self.spread(cell, arm, of))}
        return max(rates, key=rates.__getitem__) if rates else None

    def points(self, arm: str, temperature: float, concurrencies: Sequence[int]) -> list[list[Point]]:
        """Each repetition's points on mixed traffic, of repetitions in which every concurrency is there."""
        by_repetition: dict[int, list[Point]] = {}
        for count in concurrencies:
            for turn, runs in self.results.items():
                if turn.cell == Cell(MIXED, temperature, count):
                    by_repetition.setdefault(turn.repetition, []).append((runs[arm].user_rate, runs[arm].rate))
        return [points for _, points in sorted(by_repetition.items()) if len(points) == len(concurrencies)]

    def anchored(self, arm: str, temperature: float, concurrencies: Sequence[int], share: float) -> Anchored | None:
        """An arm against fixed 1 at `share` of the speed that fixed 1 gives a single stream; None without one."""
        base = self.points(FIXED_1, temperature, concurrencies)
        if concurrencies[0] != 1 or not base:
            return None
        others = self.points(arm, temperature, concurrencies)
        speeds = [share * points[0][0] for points in base]
        mine = [throughput_at(points, speed) for points, speed in zip(base, speeds, strict=True)]
        theirs = [throughput_at(points, speed) for points, speed in zip(others, speeds, strict=True)]
        matched = [
            None if level is None else speed_at(points, level.value) for points, level in zip(others, mine, strict=True)
        ]
        pairs = [(a.value, b.value) for a, b in zip(theirs, mine, strict=True) if a and b]
        reached = [(m.value, speed) for m, speed in zip(matched, speeds, strict=True) if m]
        return Anchored(
            Spread.of(speeds),
            _spread(mine),
            _spread(theirs),
            ratios(*zip(*pairs, strict=True)) if pairs else None,
            ratios(*zip(*reached, strict=True)) if reached else None,
            any(each is not None and each.beyond for each in (*mine, *theirs)),
        )


def _spread(readings: Sequence[Reading | None]) -> Spread | None:
    values = [each.value for each in readings if each is not None]
    return Spread.of(values) if values else None
