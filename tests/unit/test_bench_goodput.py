"""Attainment and goodput: who keeps a level, and that no request leaves the denominator."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.bench.goodput import Fate, Goodput, Outcome, Slo
from outrider.errors import ConfigurationError

SLO = Slo(ttft_s=0.5, tpot_s=0.05, e2e_s=5.0)
KEPT = Outcome(Fate.ANSWERED, 64, 0.5, 0.05, 5.0)
LOST = [fate for fate in Fate if fate is not Fate.ANSWERED]

times = st.none() | st.floats(0, 10)
outcomes = st.builds(Outcome, st.sampled_from(Fate), st.integers(0, 100), times, times, times)


@pytest.mark.parametrize("late", [{"ttft_s": 0.501}, {"tpot_s": 0.051}, {"e2e_s": 5.001}], ids=str)
def test_every_level_must_be_kept_and_the_limit_itself_is_within(late: dict[str, float]) -> None:
    assert SLO.kept(KEPT)
    assert not SLO.kept(replace(KEPT, **late))
    assert Slo().kept(replace(KEPT, **late))


@pytest.mark.parametrize("fate", LOST)
def test_no_other_end_keeps_a_level_however_fast(fate: Fate) -> None:
    assert not Slo().kept(replace(KEPT, fate=fate))


def test_one_token_keeps_any_pace_and_no_token_keeps_nothing() -> None:
    assert SLO.kept(Outcome(Fate.ANSWERED, 1, 0.1, None, 0.1))
    assert not SLO.kept(Outcome(Fate.ANSWERED, 0, None, None, 0.1))


def test_figures_of_a_known_load() -> None:
    found = [replace(KEPT, fate=fate, tokens=10) for fate in Fate] + [KEPT, replace(KEPT, ttft_s=9.0)]
    goodput = Goodput.of([(outcome, SLO) for outcome in found], 4.0)
    assert (goodput.offered, goodput.cancelled, goodput.kept, goodput.tokens) == (7, 1, 2, 178)
    assert goodput.attainment == 2 / 7
    assert goodput.attainment_of_stayed == 2 / 6
    assert goodput.requests_per_s == 0.5
    assert goodput.tokens_per_s == 74 / 4


@given(st.lists(outcomes, min_size=1), st.sampled_from(LOST))
def test_another_lost_request_never_raises_a_figure(found: list[Outcome], fate: Fate) -> None:
    before = Goodput.of([(outcome, SLO) for outcome in found], 2.0)
    after = Goodput.of([(outcome, SLO) for outcome in [*found, replace(KEPT, fate=fate)]], 2.0)
    assert after.offered == before.offered + 1
    assert after.attainment is not None
    assert before.attainment is not None
    assert after.attainment == pytest.approx(before.attainment * len(found) / (len(found) + 1))
    assert (after.requests_per_s, after.tokens_per_s) == (before.requests_per_s, before.tokens_per_s)


@given(st.lists(st.tuples(outcomes, st.sampled_from([SLO, Slo(), Slo(ttft_s=1.0)]))), st.integers(0, 1_000))
def test_classes_add_up_to_the_whole(found: list[tuple[Outcome, Slo]], cut: int) -> None:
    whole, *parts = (Goodput.of(each, 3.0) for each in (found, found[:cut], found[cut:]))
    assert whole.kept == sum(part.kept for part in parts) <= whole.offered == len(found)
    assert whole.kept_tokens == sum(part.kept_tokens for part in parts) <= whole.tokens
    assert whole.requests_per_s == pytest.approx(sum(part.requests_per_s for part in parts))


def test_nothing_offered_attains_nothing_and_no_time_is_an_error() -> None:
    assert Goodput.of([], 1.0).attainment is None
    assert Goodput.of([(replace(KEPT, fate=Fate.CANCELLED), SLO)], 1.0).attainment_of_stayed is None
    with pytest.raises(ConfigurationError, match="counted time"):
        Goodput.of([], 0.0)
