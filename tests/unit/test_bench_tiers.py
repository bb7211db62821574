"""The open loop: what is offered, what counts, and a real tiny engine that requests arrive at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from outrider.bench.goodput import Fate, Outcome
from outrider.bench.prompts import Prompt
from outrider.bench.speculation import Load
from outrider.bench.speculation.opened import Offered, offer, open_loop, pace_of, summed_up
from outrider.errors import ConfigurationError
from support.engines import make_engine, prompts, request
from support.tiny import TinyPair

PROMPTS = [Prompt(domain, (), (place, 7)) for place, domain in enumerate(["a", "b"] * 6)]


def load(**changes: Any) -> Load:
    sizes: dict[str, Any] = {
        "arms": ("none",), "cvs": (1.0,), "temperature": 0.0, "duration_s": 10.0, "warm_up_s": 2.0, "drain_s": 5.0,
        "tight_share": 0.3, "max_tokens": 8, "streams": 4, "repetitions": 1,
    }  # fmt: skip
    return Load(**{**sizes, **changes})


def offered(due_s: list[float], tight: set[int]) -> Offered:
    """Requests 0, 1, … due at these seconds."""
    asked = [request(place, prompt, max_tokens=4) for place, prompt in enumerate(prompts(len(due_s), 97, [5, 9]))]
    return Offered(asked, np.array(due_s), frozenset(map(str, tight)))


def answered(tpot_s: float) -> Outcome:
    return Outcome(Fate.ANSWERED, tokens=5, ttft_s=0.5, tpot_s=tpot_s, e2e_s=0.5 + 4 * tpot_s)


def test_every_arm_is_offered_the_same_and_only_the_tight_are_told() -> None:
    made = load()
    first, again, other = (offer(made, PROMPTS, 40.0, 1.0, repetition) for repetition in (0, 0, 1))
    assert first.requests == again.requests
    assert first.due_s.tolist() == again.due_s.tolist() != other.due_s.tolist()
    assert first.tight == again.tight
    assert 0.15 < len(first.tight) / len(first.requests) < 0.45
    told = first.paced(0.02)
    targets = {each.request_id: each.tpot_target_s for each in told.requests}
    assert {name for name, target in targets.items() if target is not None} == first.tight
    assert all(each.tpot_target_s is None for each in first.requests)


def test_what_counts_is_due_after_the_warm_up_and_what_was_lost_has_kept_nothing() -> None:
    given = offered([1.0, 3.0, 4.0, 5.0, 6.0, 7.0], tight={0, 1, 2, 3})
    outcomes = {
        "0": answered(0.01),
        "1": answered(0.02),
        "2": answered(0.021),
        "3": Outcome(Fate.FAILED, tokens=3, ttft_s=0.1),
        "4": answered(9.0),
        "5": Outcome(Fate.REFUSED),
    }
    run = summed_up(load(), given, outcomes, wall_s=12.0, pace_s=0.02)
    assert (run.offered, run.answered, run.kept) == (5, 3, 2)
    assert (run.tight_offered, run.tight_kept) == (3, 1)
    assert run.tight_attainment == pytest.approx(1 / 3)
    assert (run.tokens, run.kept_tokens, run.counted_s) == (18, 10, 10.0)
    assert run.tight_tpot_p50_s == pytest.approx(0.0205)
    assert run.other_tpot_p50_s == 9.0
    with pytest.raises(ConfigurationError, match="no request fell due"):
        summed_up(load(warm_up_s=9.0), given, outcomes, wall_s=12.0, pace_s=0.02)


def test_a_pace_is_kept_by_the_share_it_was_found_for() -> None:
    given = offered([1.0, *range(3, 13)], tight=set(range(11)))
    outcomes = {str(place): answered(place / 100) for place in range(11)}
    pace_s = pace_of(load(duration_s=20.0), given, outcomes, 0.7)
    assert pace_s == 0.07
    assert summed_up(load(duration_s=20.0), given, outcomes, 20.0, pace_s).tight_attainment == 0.7
    lost = {str(place): Outcome(Fate.FAILED) for place in range(11)}
    with pytest.raises(ConfigurationError, match="too few of the tight tier"):
        pace_of(load(duration_s=20.0), given, lost, 0.7)


def test_a_load_without_counted_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="warm_up_s"):
        load(warm_up_s=10.0)


def test_requests_are_answered_as_they_fall_due(pair: TinyPair) -> None:
    engine = make_engine(pair.target, pair.drafter, max_running_requests=2)
    given = offered([0.0, 0.0, 0.0, 0.05, 0.1], tight={1})
    outcomes, wall_s = open_loop(engine, given.paced(1.0), drain_s=60.0)
    assert {name: each.fate for name, each in outcomes.items()} == dict.fromkeys("01234", Fate.ANSWERED)
    assert all(each.tokens == 4 and each.ttft_s is not None and each.e2e_s is not None for each in outcomes.values())
    assert wall_s >= 0.1 + (outcomes["4"].e2e_s or 0.0)
    waited = outcomes["2"].ttft_s or 0.0
    assert waited > max(outcomes["0"].ttft_s or 0.0, outcomes["1"].ttft_s or 0.0)  # there is room for two


def test_whoever_has_not_ended_is_given_up(pair: TinyPair) -> None:
    engine = make_engine(pair.target, max_running_requests=1)
    asked = [request(place, [1, 2, 3], max_tokens=200) for place in range(2)]
    outcomes, _ = open_loop(engine, Offered(asked, np.array([0.0, 0.0]), frozenset()), drain_s=0.0)
    assert {each.fate for each in outcomes.values()} == {Fate.TIMED_OUT}
    assert engine.idle
