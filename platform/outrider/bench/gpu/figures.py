"""What the check says: figures with what was asked of them, one table, and the document that becomes a profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

__all__ = ["NO_GPU", "Asked", "Figure", "table"]

NO_GPU: Final = "not measured: no GPU"


@dataclass(frozen=True, slots=True)
class Asked:
    """A bound that a figure was asked to keep."""

    sense: Literal["≤", "≥"]
    bound: float

    def met(self, value: float) -> bool:
        return value <= self.bound if self.sense == "≤" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; low and high are quartiles or the range, as `note` says. Without a value there is a `reason`."""

    part: str
    name: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    asked: Asked | None = None
    reason: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether what was asked is kept; None where nothing was asked or measured."""
        return None if self.asked is None or self.value is None else self.asked.met(self.value)

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        held = {name: value for name, value in asdict(self).items() if value not in (None, "") or name == "value"}
        held["name"] = f"{held.pop('part')}: {self.name}"
        if self.asked is not None:
            held |= {"asked": str(self.asked), "met": self.met}
        return held


def table(figures: Sequence[Figure]) -> str:
    """Fixed columns, part by part: figure, value with its range, unit, what was asked and whether it was met."""
    rows = [("", "figure", "value", "unit", "asked", "")]
    part = ""
    for figure in figures:
        told = {True: ["met"], False: ["NOT MET"], None: []}[figure.met]
        value = figure.reason if figure.value is None else _number(figure.value)
        if figure.value is not None and figure.low is not None and figure.high is not None:
            value += f" ({_number(figure.low)} to {_number(figure.high)})"
        name = "" if figure.part == part else figure.part
        rows.append(
            (
                name,
                figure.name,
                value,
                figure.unit,
                str(figure.asked or ""),
                "; ".join([*told, *([figure.note] if figure.note else [])]),
            )
        )
        part = figure.part
    widths = [max(len(row[place]) for row in rows) for place in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
