"""Repetitions in, median and spread out; arms that are compared take turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from outrider.errors import ConfigurationError

__all__ = ["Say", "Spread", "ratios", "take_turns"]

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of `count` repetitions."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ConfigurationError when there is no value: nothing was measured."""
        if not values:
            raise ConfigurationError("nothing was measured: no repetition gave a value")
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        if self.count == 1:
            return _digits(self.median)
        return f"{_digits(self.median)} ({_digits(self.low)}–{_digits(self.high)})"


def _digits(value: float) -> str:
    """Three significant digits at least, no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """above ÷ below, repetition by repetition: what disturbs both arms of a turn cancels."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def take_turns(
    arms: Mapping[str, Callable[[], T]], repetitions: int, say: Say, *, warm_up: bool = True
) -> dict[str, list[T]]:
    """Results of A B … A B …, `repetitions` of each; a first turn warms up and is thrown away."""
    results: dict[str, list[T]] = {name: [] for name in arms}
    for turn in range(repetitions + warm_up):
        counted = turn - warm_up
        for name, run in arms.items():
            say(f"{name}: " + ("warming up" if counted < 0 else f"repetition {counted + 1} of {repetitions}"))
            result = run()
            if counted >= 0:
                results[name].append(result)
    return results
