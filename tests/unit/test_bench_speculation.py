"""The speculation benchmark: frontiers, anchors, the order of things, resuming, and a real tiny engine under load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outrider.bench.goodput import Fate
from outrider.bench.prompts import Prompt
from outrider.bench.report import Report
from outrider.bench.speculation import Grid
from outrider.bench.speculation.drive import Driver, Run, closed_loop
from outrider.bench.speculation.figures import Figures
from outrider.bench.speculation.frontier import Reading, frontier, speed_at, throughput_at
from outrider.bench.speculation.grid import MIXED, Cell, Turn
from outrider.bench.speculation.journal import Journal
from outrider.bench.speculation.pictures import spread_out
from outrider.bench.spread import Spread
from outrider.errors import ConfigurationError
from support.engines import make_engine, prompts, request
from support.tiny import TinyPair

POINTS = [(100.0, 100.0), (80.0, 160.0), (70.0, 150.0), (40.0, 320.0)]
"""At 1, 2, 3 and 8 at a time, say; the third is beaten in both."""


def grid(**changes: Any) -> Grid:
    sizes: dict[str, Any] = {
        "arms": ("none", "fixed:1", "constrained"), "concurrencies": (1, 4), "temperatures": (0.0, 1.0),
        "domain_concurrencies": (2,), "repetitions": 2, "per_stream": 3, "least_requests": 5, "max_tokens": 8,
        "verification": "rejection",
    }  # fmt: skip
    return Grid(**{**sizes, **changes})


def run_of(rate: float, user_rate: float = 1.0, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "offered": 10, "answered": 10, "tokens": int(rate * 10), "wall_s": 10.0, "user_rate": user_rate,
        "ttft_p50_s": 0.1, "rounds": 4, "gained_tokens": 10, "verified_rows": 12, "steps": 8, "drafted_steps": 2,
    }  # fmt: skip
    return Run(**{**values, **changes})


def test_a_frontier_leaves_out_what_is_beaten_in_both() -> None:
    assert frontier(POINTS) == [(100.0, 100.0), (80.0, 160.0), (40.0, 320.0)]


@pytest.mark.parametrize(
    ("speed", "reading"),
    [
        (101.0, None),
        (100.0, Reading(100.0)),
        (90.0, Reading(130.0)),
        (80.0, Reading(160.0)),
        (60.0, Reading(240.0)),
        (40.0, Reading(320.0)),
        (39.0, Reading(320.0, beyond=True)),
    ],
)
def test_throughput_is_read_where_a_user_still_sees_the_speed(speed: float, reading: Reading | None) -> None:
    assert throughput_at(POINTS, speed) == reading


@pytest.mark.parametrize(
    ("throughput", "reading"),
    [(321.0, None), (320.0, Reading(40.0)), (240.0, Reading(60.0)), (99.0, Reading(100.0, beyond=True))],
)
def test_speed_is_read_where_all_get_the_throughput(throughput: float, reading: Reading | None) -> None:
    assert speed_at(POINTS, throughput) == reading


def test_anchors_compare_within_a_repetition() -> None:
    """Fixed 1 sees 100 alone, so the 50 % anchor is 50, where it has 150; the other arm has 300 there, twice as much;
    at fixed 1's 150 tokens/s its users still see 100, twice the anchor. The second repetition is ten times as fast."""
    results = {}
    for repetition, scale in enumerate((1.0, 10.0)):
        fixed = {1: (100.0, 100.0), 4: (50.0, 150.0)}
        other = {1: (150.0, 75.0), 4: (50.0, 300.0)}
        for count in (1, 4):
            runs = {
                "fixed:1": run_of(fixed[count][1] * scale, fixed[count][0] * scale),
                "constrained": run_of(other[count][1] * scale, other[count][0] * scale),
            }
            results[Turn(Cell(MIXED, 0.0, count), repetition)] = runs
    at = Figures(results).anchored("constrained", 0.0, (1, 4), 0.5)
    assert at is not None
    assert at.speed == Spread(275.0, 50.0, 500.0, 2)
    assert at.gained == Spread(2.0, 2.0, 2.0, 2)
    assert at.matched is not None
    assert at.matched.median == pytest.approx(2 * (150 - 100 * 75 / 225) / 100)
    assert not at.beyond
    assert Figures(results).anchored("constrained", 0.0, (4,), 0.5) is None


def test_an_unfinished_repetition_has_no_frontier() -> None:
    turns = {Turn(Cell(MIXED, 0.0, 1), 0): {"none": run_of(5.0)}}
    assert Figures(turns).points("none", 0.0, (1, 4)) == []


def test_the_best_fixed_depth_is_best_by_median() -> None:
    cell = Cell(MIXED, 0.0, 4)
    rates = {"fixed:1": (10.0, 11.0, 12.0), "fixed:3": (1.0, 9.0, 50.0), "none": (99.0, 99.0, 99.0)}
    turns = {Turn(cell, n): {arm: run_of(each[n]) for arm, each in rates.items()} for n in range(3)}
    figures = Figures(turns)
    assert figures.best_fixed(cell, tuple(rates)) == "fixed:1"
    assert figures.ratio(cell, "none", "fixed:1") == Spread.of([9.9, 9.0, 8.25])


def test_every_arm_answers_the_same_and_every_repetition_something_else() -> None:
    made = grid()
    known = [Prompt(domain, (), (place, 7)) for place, domain in enumerate(["a", "b", "c"] * 4)]
    turns = made.turns(["a", "b", "c"])
    assert len(turns) == 2 * (2 * 2 + 3)
    assert {turn.repetition for turn in turns[: len(turns) // 2]} == {0}
    mixed_turn, apart = turns[3], turns[5]
    warm, measured = made.made(mixed_turn, known)
    assert len(measured) == 12
    assert len(warm) == 8
    assert {one.sampling.verification for one in warm + measured} == {"rejection"}
    assert len({one.prompt_token_ids for one in measured}) == 12
    assert made.made(mixed_turn, known) == (warm, measured)
    again = made.made(Turn(mixed_turn.cell, 1), known)[1]
    assert [one.prompt_token_ids for one in again] != [one.prompt_token_ids for one in measured]
    assert {one.sampling.seed for one in again}.isdisjoint(one.sampling.seed for one in measured)
    domain = {prompt.tokens for prompt in known if prompt.domain == apart.cell.domain}
    assert {one.prompt_token_ids for one in made.made(apart, known)[1]} <= domain
    assert [Turn(mixed_turn.cell, each).order(made.arms)[0] for each in range(3)] == list(made.arms)


def test_a_closed_loop_keeps_its_number_running(pair: TinyPair) -> None:
    engine = make_engine(pair.target, pair.drafter, max_running_requests=8)
    seen: list[int] = []
    step = engine.step

    def counted() -> Any:
        seen.append(len(engine.running) + len(engine.queue))
        return step()

    engine.step = counted  # type: ignore[method-assign]
    asked = [request(place, prompt, max_tokens=6) for place, prompt in enumerate(prompts(9, 97, [5, 9, 3]))]
    run = closed_loop(engine, asked, 3)
    assert max(seen) == 3
    assert (run.offered, run.answered, run.tokens) == (9, 9, 54)
    assert run.gained_tokens == 45
    assert run.rows_per_round is not None
    assert run.tokens_per_round is not None
    assert 1 < run.tokens_per_round <= run.rows_per_round <= 8
    assert run.user_rate > run.rate / 3


def test_whoever_is_not_answered_stays_in_the_denominator(pair: TinyPair) -> None:
    """One is refused, one cancelled on the way, one answered: the median speed of the three is 0."""
    engine = make_engine(pair.target, max_running_requests=8)
    driver = Driver(engine)
    driver.submit(request("long", [1] * 300), 0.0)
    driver.submit(request("kept", [1, 2], max_tokens=3), 0.0)
    driver.submit(request("cut", [1, 2, 3], max_tokens=50), 0.0)
    while "kept" not in driver.outcomes:
        driver.step()
    driver.give_up()
    assert driver.in_flight == 0
    assert engine.idle
    assert {name: each.fate for name, each in driver.outcomes.items()} == {
        "long": Fate.REFUSED, "kept": Fate.ANSWERED, "cut": Fate.TIMED_OUT,
    }  # fmt: skip
    run = driver.run(1.0)
    assert (run.offered, run.answered, run.user_rate) == (3, 1, 0.0)
    assert run.tokens == 3 + driver.outcomes["cut"].tokens > 3


def test_a_file_goes_on_where_it_ended(tmp_path: Path) -> None:
    file = tmp_path / "new" / "runs.json"
    turn = Turn(Cell(MIXED, 0.0, 4), 1)
    journal = Journal(file, Report("speculation", {"cpu": "one", "time": "now"}, {"max_tokens": 8}), Cell, Run)
    journal.add(turn, {"none": run_of(5.0)})
    report = Report("speculation", {"cpu": "one", "time": "later"}, {"max_tokens": 8})
    assert Journal(file, report, Cell, Run).results == {turn: {"none": run_of(5.0)}}
    assert report.configuration["time"] == "now"
    assert [each.name for each in file.parent.iterdir()] == ["runs.json"]
    with pytest.raises(ConfigurationError, match="max_tokens is 8 there, 9 here"):
        Journal(file, Report("speculation", {"cpu": "one"}, {"max_tokens": 9}), Cell, Run)
    file.write_text("[]")
    with pytest.raises(ConfigurationError, match="no benchmark's report"):
        Journal(file, report, Cell, Run)


def test_labels_keep_their_distance_and_their_order() -> None:
    moved = spread_out([5.0, 0.0, 0.5, 9.0], 2.0)
    assert moved == [5.0, 0.0, 2.0, 9.0]
    assert spread_out([1.0, 1.0, 1.0], 1.0) == [1.0, 2.0, 3.0]
