"""The closed loop's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from outrider.bench.report import Cell as Value
from outrider.bench.report import Report, Table
from outrider.bench.speculation.arms import ADAPTIVE, ATTACHED, FIXED_1, NONE, label
from outrider.bench.speculation.drive import Run
from outrider.bench.speculation.figures import ANCHORS, Figures, Results, cpu_rate, wall_rate
from outrider.bench.speculation.grid import MIXED, Cell, Grid

__all__ = ["add_tables"]

_BY_CONCURRENCY: tuple[tuple[str, Callable[[Run], float | None]], ...] = (
    ("tok/s of all", lambda run: run.rate),
    ("tok/s of one user", lambda run: run.user_rate),
    ("verified rows per request and round", lambda run: run.rows_per_round),
    ("tokens per round", lambda run: run.tokens_per_round),
    ("share of rounds drafted", lambda run: run.drafted_share),
    ("time to first token, median ms", lambda run: None if run.ttft_p50_s is None else run.ttft_p50_s * 1e3),
)


def add_tables(report: Report, grid: Grid, results: Results) -> None:
    """Everything that follows from the finished turns, into a report that has none of it yet."""
    figures = Figures(results)
    report.tables, report.notes = [], []
    if not results:
        report.notes.append("nothing was measured yet")
        return
    for temperature in grid.temperatures:
        report.tables += [
            _ratios(figures, grid, temperature, "tok/s", wall_rate),
            _ratios(figures, grid, temperature, "tokens per CPU second", cpu_rate),
            *_anchors(figures, grid, temperature),
            *(_by_arm(figures, grid, temperature, title, of) for title, of in _BY_CONCURRENCY),
        ]
    apart = sorted({turn.cell.domain for turn in results} - {MIXED})
    cells = [Cell(each, grid.temperatures[0], n) for each in apart for n in grid.domain_concurrencies]
    if cells:
        report.tables += _domains(figures, grid, cells)
    report.notes += _notes(results)


def _ratios(figures: Figures, grid: Grid, temperature: float, what: str, of: Callable[[Run], float]) -> Table:
    """Throughput of the adaptive arms over the best fixed depth, no drafter and an idle one, on mixed traffic.

    By CPU seconds neighbours on a shared machine are left out; colocated, one process does all the work.
    """
    table = Table(f"adaptive ÷ others, {what}, T = {temperature:g}", _columns(grid))
    for count in grid.concurrencies:
        table.add(*_against(figures, grid, Cell(MIXED, temperature, count), of))
    return table


def _columns(grid: Grid) -> tuple[str, ...]:
    ratios = (f"{label(arm)} ÷ {of}" for arm in _adaptive(grid) for of in ("best fixed", "none", "idle drafter"))
    return ("at a time", "best fixed", *ratios)


def _against(figures: Figures, grid: Grid, cell: Cell, of: Callable[[Run], float] = wall_rate) -> list[Value]:
    best = figures.best_fixed(cell, grid.arms, of)
    others = (best, *(arm if arm in grid.arms else None for arm in (NONE, ATTACHED)))
    found = [
        None if other is None else figures.ratio(cell, arm, other, of) for arm in _adaptive(grid) for other in others
    ]
    return [cell.concurrency, None if best is None else label(best), *found]


def _adaptive(grid: Grid) -> list[str]:
    return [arm for arm in ADAPTIVE if arm in grid.arms]


def _anchors(figures: Figures, grid: Grid, temperature: float) -> list[Table]:
    """Against fixed 1 at its anchors; none where it, or its single stream, is not in the grid."""
    if FIXED_1 not in grid.arms:
        return []
    table = Table(
        f"against fixed 1 at its anchors, T = {temperature:g}",
        ("anchor", "arm", "tok/s of one user", "tok/s of all, fixed 1", "tok/s of all", "÷ fixed 1",
         "one user's tok/s at fixed 1's throughput ÷ anchor", "frontier ends before"),
    )  # fmt: skip
    for share in ANCHORS:
        for arm in _adaptive(grid):
            at = figures.anchored(arm, temperature, grid.concurrencies, share)
            if at is not None:
                values = (at.speed, at.base_throughput, at.throughput, at.gained, at.matched)
                table.add(f"{share:.0%}", label(arm), *values, "yes" if at.beyond else "no")
    return [table] if table.rows else []


def _by_arm(figures: Figures, grid: Grid, temperature: float, title: str, of: Callable[[Run], float | None]) -> Table:
    table = Table(f"{title}, T = {temperature:g}", ("arm", *(str(count) for count in grid.concurrencies)))
    for arm in grid.arms:
        cells = [Cell(MIXED, temperature, count) for count in grid.concurrencies]
        table.add(label(arm), *(figures.spread(cell, arm, of) for cell in cells))
    return table


def _domains(figures: Figures, grid: Grid, cells: Sequence[Cell]) -> list[Table]:
    """Ratios of each domain apart, then everybody's throughput in it."""
    temperature = grid.temperatures[0]
    ratios = Table(f"adaptive ÷ others by domain, T = {temperature:g}", ("domain", *_columns(grid)))
    rates = Table(
        f"tok/s of all by domain, T = {temperature:g}",
        ("arm", *(f"{cell.domain}, {cell.concurrency}" for cell in cells)),
    )
    for cell in cells:
        ratios.add(cell.domain, *_against(figures, grid, cell))
    for arm in grid.arms:
        rates.add(label(arm), *(figures.spread(cell, arm, lambda run: run.rate) for cell in cells))
    return [ratios, rates]


def _notes(results: Results) -> list[str]:
    offered = answered = 0
    for runs in results.values():
        offered += sum(run.offered for run in runs.values())
        answered += sum(run.answered for run in runs.values())
    return [
        f"{answered} of {offered} requests were answered; those that were not count with a speed of 0",
        "a cell is the median of the repetitions, smallest and largest in brackets; ratios are within a repetition",
        "best fixed is the fixed depth of largest median throughput at that load",
        "at n at a time, n requests run until none is left to begin; the end of a run is thinner and counts",
    ]
