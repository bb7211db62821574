"""The page that shows the newest results: written anew from every report in its folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from outrider.bench.speculation.figures import Figures, Results
from outrider.bench.speculation.grid import Grid
from outrider.bench.speculation.journal import read_report
from outrider.bench.speculation.pictures import budget_picture, frontier_picture
from outrider.bench.spread import Spread
from outrider.errors import ConfigurationError

__all__ = ["draw", "write_page"]

_KINDS = ("speculation", "speculation-open")
_LEFT_TO_JSON = ("tokens per round", "share of rounds drafted", "time to first token")
_INTRODUCTION = """# Speculation, measured

Every arm is the same engine on the same prompts, threads and memory. Arms take turns within a repetition and ratios are
taken within one: what disturbs the machine disturbs both. Cells are medians, smallest and largest repetition in
brackets. The command itself writes this page and its pictures from the JSON files beside it, which hold every run.

Closed loop: n requests run at a time until all are answered. An arm whose frontier lies above another gives every user
more at the same throughput. The dashed anchors are 50 % and 75 % of what fixed 1 gives a single stream. Open loop:
requests come when they are due, and the tight part of them has a pace to keep, found and frozen beforehand.

Arms: no speculation and prompt lookup run without a drafter loaded; "drafter idle" has one and never asks it, which
costs a step the projection of its hidden states. Fixed 1, 3, 5, 7 verify so many drafted tokens in
every round. The threshold verifies while the drafter's confidence in all tokens so far stays at 0.5 or above. The depth
table goes by the number of running requests. Algorithm 1, asynchronous and constrained weigh expected tokens against
measured costs; the last two decide before drafting whom to draft for. Tokens per CPU second leave out what neighbours
on the machine took of the wall clock.
"""


def draw(grid: Grid, results: Results, folder: Path, stem: str) -> list[str]:
    """Pictures of the closed loop beside its file; returns the names. Raises MissingExtra without matplotlib."""
    figures, drawn = Figures(results), []
    for temperature in grid.temperatures:
        for kind, picture in (("frontier", frontier_picture), ("budget", budget_picture)):
            name = f"{stem}-{kind}-t{temperature:g}.svg"
            picture(figures, grid, temperature, folder / name)
            drawn.append(name)
    return drawn


def write_page(folder: Path) -> Path:
    """Write README.md of a folder of reports; raises ConfigurationError when it holds none."""
    reports = [(file, read_report(file)) for file in sorted(folder.glob("*.json"))]
    sections = [_section(file, held) for file, held in reports if held["bench"] in _KINDS]
    if not sections:
        raise ConfigurationError(f"{folder} holds no report of `outrider bench speculation`", param="page")
    page = folder / "README.md"
    others = [f"[{each.stem}]({each.name})" for each in sorted(folder.glob("*.md")) if each != page]
    beside = [f"Measured beside it: {', '.join(others)}.\n"] if others else []
    page.write_text("\n".join([_INTRODUCTION, *beside, *sections]), encoding="utf-8")
    return page


def _section(file: Path, held: dict[str, Any]) -> str:
    parameters, about = held["parameters"], held["configuration"]
    lines = [
        f"## {parameters['name']}, {'open' if held['bench'] == _KINDS[1] else 'closed'} loop",
        "",
        f"[{file.name}]({file.name}), {about['time'][:10]}, revision {about['revision']}: {about['cpu']}, "
        f"{about['torch_threads']} thread{'s' if about['torch_threads'] > 1 else ''}, {about['dtype']}. "
        f"Fixed 1 has {parameters.get('fixed:1', 'not been measured')}. To repeat it:",
        "",
        f"    {parameters['command']}",
        "",
    ]
    lines += [f"![{name.removesuffix('.svg')}]({name})" for name in parameters.get("pictures", ())]
    for table in held["tables"]:
        if not table["title"].startswith(_LEFT_TO_JSON):
            lines += ["", f"### {table['title']}", "", *_markdown(table["rows"])]
    lines += ["", *(f"- {note}" for note in held["notes"]), ""]
    return "\n".join(lines)


def _markdown(rows: list[dict[str, Any]]) -> Iterable[str]:
    """A table; cells as the console shows them."""
    columns = list(rows[0])
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield "| " + " | ".join(_cell(row[column]) for column in columns) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        return str(Spread(**value))
    return str(Spread(value, value, value, 1)) if isinstance(value, float) else str(value)
