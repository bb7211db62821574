"""What a benchmark says: its configuration, tables of figures, remarks. One object, printed or written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from outrider.bench.spread import Spread
from outrider.errors import ConfigurationError

__all__ = ["Cell", "Report", "Table"]

Cell = str | int | float | Spread | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under named columns; units are part of a column's name."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Append a row; raises ConfigurationError when it does not fit the columns."""
        if len(cells) != len(self.columns):
            raise ConfigurationError(f"a row of {len(cells)} cells for the {len(self.columns)} columns of {self.title}")
        self.rows.append(cells)


@dataclass(slots=True)
class Report:
    """One benchmark's result. `passed` is False when a thing that must be equal was not."""

    bench: str
    configuration: dict[str, Any]
    parameters: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed: bool = True
    runs: list[dict[str, Any]] = field(default_factory=list)
    """What the tables were made of, where a benchmark keeps it."""

    def as_dict(self) -> dict[str, Any]:
        """JSON types only; every row becomes an object keyed by column."""
        tables = [
            {
                "title": table.title,
                "rows": [dict(zip(table.columns, map(_plain, row), strict=True)) for row in table.rows],
            }
            for table in self.tables
        ]
        return {
            "bench": self.bench,
            "passed": self.passed,
            "configuration": self.configuration,
            "parameters": self.parameters,
            "tables": tables,
            "notes": self.notes,
            **({"runs": self.runs} if self.runs else {}),
        }

    def write(self, file: Path) -> None:
        """Write the JSON form; raises ConfigurationError when the file cannot be written."""
        try:
            file.write_text(json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be written: {error.strerror}", param="out") from error

    def show(self, console: Console) -> None:
        """Configuration and parameters as lines, then the tables, then the notes."""
        console.print(Text(f"outrider bench {self.bench}", style="bold"))
        for name, value in (self.configuration | self.parameters).items():
            console.print(Text(f"  {name}: {_line(value)}", style="dim"))
        for table in self.tables:
            console.print(Text(f"\n{table.title}", style="bold"))
            console.print(_rich(table))
        for note in self.notes:
            console.print(Text(f"• {note}"))


def _plain(cell: Cell) -> Any:
    return asdict(cell) if isinstance(cell, Spread) else cell


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_line(part)}" for name, part in value.items())
    return ", ".join(map(_line, value)) if isinstance(value, list | tuple) else str(value)


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=None, header_style="bold")
    for place, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if place == 0 else "right")
    for row in table.rows:
        shown.add_row(*(Text("" if cell is None else _shown(cell)) for cell in row))
    return shown


def _shown(cell: Cell) -> str:
    return str(Spread(cell, cell, cell, 1)) if isinstance(cell, float) else str(cell)
