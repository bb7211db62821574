"""Runs on disk: what was measured is kept after every turn, and not measured again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from outrider.bench.report import Report
from outrider.bench.speculation.grid import Turn
from outrider.errors import ConfigurationError

__all__ = ["Journal", "read_report"]

C = TypeVar("C")
R = TypeVar("R")

_CHANGING = ("load_average", "time", "command", "pictures", "frozen", "repetitions")
"""What two measurements of the same may differ in: repetitions are added to those there are."""


class Journal(Generic[C, R]):
    """The runs of one benchmark and their file, if there is one; owned by the process that measures.

    Cells and runs are dataclasses of JSON types. `held` is what the file held of parameters.
    """

    def __init__(self, file: Path | None, report: Report, cell: type[C], run: type[R]) -> None:
        """Take over what `file` holds. Raises ConfigurationError when it is another measurement's, or cannot be."""
        self._file = file
        self._report = report
        self.held: dict[str, Any] = {}
        self.results: dict[Turn[C], dict[str, R]] = {}
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{file.parent} cannot be made: {error.strerror}", param="out") from error
        if file.exists():
            self._take_over(file, cell, run)

    def add(self, turn: Turn[C], runs: Mapping[str, R]) -> None:
        """A turn is finished."""
        self.results[turn] = dict(runs)
        self.save()

    def save(self) -> None:
        """Write everything; the file is whole whenever the process ends."""
        self._report.runs = [
            {
                **_plain(turn.cell),
                "repetition": turn.repetition,
                "arms": {arm: _plain(run) for arm, run in runs.items()},
            }
            for turn, runs in self.results.items()
        ]
        if self._file is not None:
            beside = self._file.with_name(f".{self._file.name}.part")
            self._report.write(beside)
            os.replace(beside, self._file)

    def _take_over(self, file: Path, cell: type[C], run: type[R]) -> None:
        held = read_report(file)
        mine = self._report.as_dict()
        for part in ("bench", "configuration", "parameters"):
            different = _differences(held.get(part), mine[part])
            if different:
                raise ConfigurationError(
                    f"{file} holds another measurement ({part}: {different}); give another --out", param="out"
                )
        self._report.configuration, self.held = held["configuration"], held["parameters"]
        try:
            for each in held.get("runs", []):
                turn = Turn(_made(cell, each), each["repetition"])
                self.results[turn] = {arm: _made(run, values) for arm, values in each["arms"].items()}
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"{file} has runs that are not whole: {error}", param="out") from error


def read_report(file: Path) -> dict[str, Any]:
    """A report's JSON form; raises ConfigurationError when the file holds none."""
    try:
        held = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}", param="out") from error
    except ValueError as error:
        raise ConfigurationError(f"{file} is no JSON: {error}", param="out") from error
    if not isinstance(held, dict) or "bench" not in held:
        raise ConfigurationError(f"{file} is no benchmark's report", param="out")
    return held


def _plain(value: Any) -> dict[str, Any]:
    return asdict(value)


def _made(kind: type[R], values: Mapping[str, Any]) -> R:
    """Raises KeyError for a field that is missing."""
    return kind(**{field.name: values[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _differences(held: Any, mine: Any) -> str:
    """What differs, as words, where it may not."""
    if not isinstance(held, dict) or not isinstance(mine, dict):
        return "" if held == mine else f"{held} there, {mine} here"
    names = [name for name in {**held, **mine} if name not in _CHANGING and held.get(name) != mine.get(name)]
    return ", ".join(f"{name} is {held.get(name)} there, {mine.get(name)} here" for name in names)
