"""Mixed tiers in open loop: a rate and a pace are found first, frozen, and then kept the same for every arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from outrider.bench.prompts import Prompt, held_out_prompts
from outrider.bench.report import Report, Table
from outrider.bench.setup import Setup, requests_for
from outrider.bench.speculation.arms import FIXED_1, Arms, check_arms, label
from outrider.bench.speculation.closed import describe_fixed_1
from outrider.bench.speculation.drive import closed_loop
from outrider.bench.speculation.grid import MIXED, Turn, shuffled
from outrider.bench.speculation.journal import Journal
from outrider.bench.speculation.opened import Arrivals, Load, OpenRun, offer, open_loop, pace_of, summed_up
from outrider.bench.spread import Say, Spread, ratios

__all__ = ["OPEN_ARMS", "THROUGHPUT_ONLY", "UNTOLD", "measure_tiers"]

THROUGHPUT_ONLY = "asynchronous"
"""Sets the scene: at the frozen rate it keeps the frozen pace for too few of the tight tier."""
TOLD, UNTOLD = "constrained", "constrained, untold"
"""The constrained scheduler with the pace in its requests, and without."""
OPEN_ARMS = ("none", FIXED_1, THROUGHPUT_ONLY, UNTOLD, TOLD)
_ATTAINED = 0.7
"""Share of the tight tier that keeps the pace in the trial."""
_BINDING = 0.8
"""A pace that more of the tight tier keeps unasked says nothing of schedulers."""
_Results = Mapping[Turn[Arrivals], Mapping[str, OpenRun]]


def measure_tiers(
    setup: Setup,
    load: Load,
    *,
    name: str,
    command: str,
    one_token: Path | None,
    utilisation: float,
    rate_per_s: float | None,
    pace_s: float | None,
    out: Path | None,
    say: Say,
) -> Report:
    """Attainment of the tight tier, throughput and goodput by arm, under the same arrivals and the same admission.

    Without a rate, it is `utilisation` of what the throughput-only scheduler answers per second at full width. Without
    a pace, it is what that scheduler keeps for 70 % of the tight tier in a trial, for each kind of arrivals.
    """
    check_arms(tuple(_scheduler(arm) for arm in load.arms))
    prompts = held_out_prompts(setup.target, None, max_tokens=load.max_tokens, file=setup.held_out)
    parameters = {"name": name, "command": command, **load.as_dict(), "utilisation": utilisation,
                  FIXED_1: describe_fixed_1(one_token)}  # fmt: skip
    report = Report("speculation-open", setup.configuration(), parameters)
    journal = Journal(out, report, Arrivals, OpenRun)
    turns = [Turn(Arrivals(cv), repetition) for repetition in range(load.repetitions) for cv in load.cvs]
    due = [turn for turn in turns if turn not in journal.results]
    schedulers = tuple(dict.fromkeys([*map(_scheduler, load.arms), THROUGHPUT_ONLY]))
    frozen = journal.held.get("frozen")
    if due:
        with Arms(setup, schedulers, streams=load.streams, one_token=one_token) as arms:
            frozen = frozen or _freeze(arms, load, prompts, utilisation, rate_per_s, pace_s, say)
            report.parameters["frozen"] = frozen
            for turn in due:
                runs = {}
                for arm in turn.order(load.arms):
                    say(f"repetition {turn.repetition + 1} of {load.repetitions}, {turn.cell}: {arm}")
                    runs[arm] = _run(arms, load, prompts, turn, arm, frozen)
                journal.add(turn, {arm: runs[arm] for arm in load.arms})
    report.parameters["frozen"] = frozen
    _add_tables(report, load, journal.results, frozen or {})
    journal.save()
    return report


def _scheduler(arm: str) -> str:
    return TOLD if arm == UNTOLD else arm


def _pace_key(cv: float) -> str:
    return f"pace_s, cv {cv:g}"


def _freeze(
    arms: Arms,
    load: Load,
    prompts: list[Prompt],
    utilisation: float,
    rate_per_s: float | None,
    pace_s: float | None,
    say: Say,
) -> dict[str, float]:
    """Rate and paces, found with requests of no repetition."""
    if rate_per_s is None:
        say(f"finding what {THROUGHPUT_ONLY} can answer")
        tokens = [prompt.tokens for prompt in shuffled(prompts, MIXED, -1)]
        count = 2 * load.streams
        asked = requests_for([tokens[n % len(tokens)] for n in range(count)], load.max_tokens,
                             temperature=load.temperature)  # fmt: skip
        run = closed_loop(arms.ready(THROUGHPUT_ONLY), asked, load.streams)
        rate_per_s = utilisation * run.answered / run.wall_s
    frozen = {"rate_per_s": rate_per_s}
    for cv in load.cvs:
        found = pace_s
        if found is None:
            say(f"finding a pace under {Arrivals(cv)}")
            offered = offer(load, prompts, rate_per_s, cv, -1)
            outcomes, _ = open_loop(arms.ready(THROUGHPUT_ONLY), offered, drain_s=load.drain_s)
            found = pace_of(load, offered, outcomes, _ATTAINED)
        frozen[_pace_key(cv)] = found
    return frozen


def _run(
    arms: Arms, load: Load, prompts: list[Prompt], turn: Turn[Arrivals], arm: str, frozen: Mapping[str, float]
) -> OpenRun:
    pace_s = frozen[_pace_key(turn.cell.cv)]
    offered = offer(load, prompts, frozen["rate_per_s"], turn.cell.cv, turn.repetition)
    told = offered.paced(pace_s) if arm == TOLD else offered
    outcomes, wall_s = open_loop(arms.ready(_scheduler(arm)), told, drain_s=load.drain_s)
    return summed_up(load, offered, outcomes, wall_s, pace_s)


_COLUMNS: tuple[tuple[str, Callable[[OpenRun], float | None]], ...] = (
    ("tight tier that kept its pace", lambda run: run.tight_attainment),
    ("its TPOT, median ms", lambda run: _ms(run.tight_tpot_p50_s)),
    ("others' TPOT, median ms", lambda run: _ms(run.other_tpot_p50_s)),
    ("TTFT, median ms", lambda run: _ms(run.ttft_p50_s)),
    ("tok/s of all", lambda run: run.rate),
    ("goodput, requests/s", lambda run: run.kept / run.counted_s),
    ("goodput, tok/s", lambda run: run.kept_tokens / run.counted_s),
)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _add_tables(report: Report, load: Load, results: _Results, frozen: Mapping[str, float]) -> None:
    report.tables, report.notes = [], []
    for cv in load.cvs:
        cell = Arrivals(cv)
        repeated = [runs for turn, runs in sorted(results.items(), key=_repetition) if turn.cell == cell]
        if not repeated:
            continue
        base = [runs[THROUGHPUT_ONLY].rate for runs in repeated if THROUGHPUT_ONLY in runs]
        title = f"{cell}: {frozen['rate_per_s']:.3g} requests/s, pace {frozen[_pace_key(cv)] * 1e3:.3g} ms a token"
        table = Table(title, ("arm", "answered", *(name for name, _ in _COLUMNS), f"tok/s ÷ {THROUGHPUT_ONLY}"))
        for arm in load.arms:
            runs = [each[arm] for each in repeated]
            share = f"{sum(run.answered for run in runs)} of {sum(run.offered for run in runs)}"
            cells = (_spread([of(run) for run in runs]) for _, of in _COLUMNS)
            ratio = ratios([run.rate for run in runs], base) if base else None
            table.add(label(arm), share, *cells, ratio)
        report.tables.append(table)
        report.notes += _scene(cell, [runs[THROUGHPUT_ONLY] for runs in repeated if THROUGHPUT_ONLY in runs])
    report.notes += [
        f"{load.tight_share:.0%} of requests are tight: they have the pace to keep, in time per token after the first",
        "rate and pace were found before, with other requests, and are the same for every arm",
        "latencies count from when a request was due, not from when the engine could take it",
        "requests that were refused, failed or given up have kept nothing and count as offered",
        "goodput: requests that were answered, tight ones within their pace, and the tokens of those",
    ]


def _scene(cell: Arrivals, runs: list[OpenRun]) -> list[str]:
    """Whether the throughput-only scheduler misses the pace as often in the measured runs as a binding pace demands."""
    offered = sum(run.tight_offered for run in runs)
    if not offered:
        return []
    share = sum(run.tight_kept for run in runs) / offered
    verdict = (
        "binds" if share <= _BINDING else f"does not bind: more than {_BINDING:.0%} keep it unasked; measure again"
    )
    return [f"{cell}: {label(THROUGHPUT_ONLY)} keeps the pace for {share:.0%} of the tight tier, so the pace {verdict}"]


def _repetition(item: tuple[Turn[Arrivals], object]) -> int:
    return item[0].repetition


def _spread(values: list[float | None]) -> Spread | None:
    present = [value for value in values if value is not None]
    return Spread.of(present) if present else None
