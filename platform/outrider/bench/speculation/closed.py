"""The closed-loop grid: every arm on the same requests at every load, turn by turn, kept as it goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from outrider.bench.prompts import Prompt, held_out_prompts
from outrider.bench.report import Report
from outrider.bench.setup import Setup
from outrider.bench.speculation.arms import FIXED_1, Arms, check_arms
from outrider.bench.speculation.drive import Run, closed_loop
from outrider.bench.speculation.grid import Cell, Grid, Turn
from outrider.bench.speculation.journal import Journal
from outrider.bench.speculation.page import draw
from outrider.bench.speculation.tables import add_tables
from outrider.bench.spread import Say

__all__ = ["measure_speculation", "planned"]


def measure_speculation(
    setup: Setup,
    grid: Grid,
    *,
    name: str,
    command: str,
    one_token: Path | None,
    out: Path | None,
    pictures: bool,
    say: Say,
) -> Report:
    """Tokens per second of all and of one user, by arm and concurrency, with what follows from them.

    `name` stands for the target on the page and `command` for how to repeat it. Turns that `out` holds already are not
    measured again. Pictures go beside `out`.
    """
    check_arms(grid.arms)
    prompts = held_out_prompts(setup.target, None, max_tokens=grid.max_tokens, file=setup.held_out)
    report = Report(
        "speculation",
        setup.configuration(),
        {"name": name, "command": command, **grid.as_dict(), FIXED_1: describe_fixed_1(one_token)},
    )
    journal = Journal(out, report, Cell, Run)
    due = [turn for turn in grid.turns(_domains(prompts)) if turn not in journal.results]
    if due:
        with Arms(setup, grid.arms, streams=max(_widths(grid)), one_token=one_token) as arms:
            progress = _Progress(grid, due, say)
            for turn in due:
                journal.add(turn, _take_turn(arms, grid, turn, prompts, progress))
    add_tables(report, grid, journal.results)
    if pictures and out is not None:
        report.parameters["pictures"] = draw(grid, journal.results, out.parent, out.stem)
    journal.save()
    return report


def planned(setup: Setup, grid: Grid) -> str:
    """How much there is to measure, in words."""
    check_arms(grid.arms)
    prompts = held_out_prompts(setup.target, None, max_tokens=grid.max_tokens, file=setup.held_out)
    turns = grid.turns(_domains(prompts))
    requests = sum(map(grid.work, turns))
    most = requests * grid.max_tokens
    return (
        f"{len(turns)} turns of {len(grid.arms)} arms, {len(turns) * len(grid.arms)} runs, {requests} requests, "
        f"at most {most} tokens; were no answer to end by itself, {most / 60_000:.0f} minutes at 1000 tokens/s"
    )


def describe_fixed_1(one_token: Path | None) -> str:
    """Which drafter the arm of depth 1 has."""
    return f"its own γ = 1 drafter, {one_token.name}" if one_token else "slot 1 of the block drafter"


def _take_turn(
    arms: Arms, grid: Grid, turn: Turn[Cell], prompts: Sequence[Prompt], progress: _Progress
) -> dict[str, Run]:
    first, measured = grid.made(turn, prompts)
    runs = {}
    for arm in turn.order(grid.arms):
        progress.at(turn, arm)
        engine = arms.ready(arm)
        closed_loop(engine, first, turn.cell.concurrency)
        runs[arm] = closed_loop(engine, measured, turn.cell.concurrency)
        progress.done += len(measured)
    return {arm: runs[arm] for arm in grid.arms}


class _Progress:
    """What is measured now, and when all of it will be, by requests answered so far."""

    def __init__(self, grid: Grid, due: Sequence[Turn[Cell]], say: Say) -> None:
        self._repetitions, self._say = grid.repetitions, say
        self._all = sum(map(grid.work, due))
        self._started = time.monotonic()
        self.done = 0

    def at(self, turn: Turn[Cell], arm: str) -> None:
        """An arm's run begins."""
        left = ""
        if self.done:
            rest_s = (time.monotonic() - self._started) * (self._all / self.done - 1)
            left = f", about {rest_s / 60:.0f} min left"
        self._say(f"repetition {turn.repetition + 1} of {self._repetitions}, {turn.cell}: {arm}{left}")


def _domains(prompts: Sequence[Prompt]) -> list[str]:
    return sorted({prompt.domain for prompt in prompts})


def _widths(grid: Grid) -> list[int]:
    return [*grid.concurrencies, *grid.domain_concurrencies]
