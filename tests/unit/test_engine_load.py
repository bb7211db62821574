"""The numbers a snapshot carries: smoothed times and acceptance by slot."""

from __future__ import annotations

import pytest

from outrider.engine.load import AcceptanceMeter, Pace, Smoothed


def test_the_first_samples_are_averaged_evenly() -> None:
    mean = Smoothed(weight=0.1)
    assert mean.value == 0
    for sample in (4.0, 2.0, 3.0):
        mean.add(sample)
    assert mean.value == pytest.approx(3.0)


def test_later_samples_are_weighted() -> None:
    mean = Smoothed(weight=0.5)
    for _ in range(30):
        mean.add(1.0)
    mean.add(3.0)
    assert mean.value == pytest.approx(2.0, abs=1e-6)


def test_acceptance_converges_to_the_slots_rates() -> None:
    """Slot one always accepted, slot two in half of the rounds, slot three never."""
    meter = AcceptanceMeter(3)
    for i in range(4000):
        meter.add(3, 2 if i % 2 else 1)
    assert meter.expected_tokens() == pytest.approx((1.0, 2.0, 2.5, 2.5), abs=0.02)


def test_a_trimmed_slot_says_nothing() -> None:
    meter, before = AcceptanceMeter(3), AcceptanceMeter(3).expected_tokens()
    meter.add(0, 0)
    assert meter.expected_tokens() == before
    for _ in range(100):
        meter.add(1, 1)
    after = meter.expected_tokens()
    assert after[1] == pytest.approx(2.0, abs=0.02)
    assert (after[3] - after[2]) / (after[2] - after[1]) == pytest.approx(0.7)


def test_no_drafter_means_one_token_a_round() -> None:
    assert AcceptanceMeter(0).expected_tokens() == (1.0,)


def test_bad_news_ages_while_nobody_drafts() -> None:
    meter = AcceptanceMeter(3)
    for _ in range(200):
        meter.add(3, 0)
    assert meter.expected_tokens()[1] < 1.05
    for _ in range(2000):
        meter.pass_round()
    assert meter.expected_tokens() == pytest.approx(AcceptanceMeter(3).expected_tokens(), abs=0.01)


def test_a_pace_is_the_requests_time_over_their_tokens_and_forgets_within_seconds() -> None:
    pace = Pace()
    assert (pace.value, pace.requests) == (0.0, 0.0)
    for _ in range(100):
        pace.add(0.1, 4, 8)  # two tokens each in a tenth of a second
    assert pace.value == pytest.approx(0.05)
    assert pace.requests == pytest.approx(4.0)
    pace.add(10.0, 1, 1)  # nothing but this one counts after it
    assert pace.value == pytest.approx(10.0, rel=0.01)
    assert pace.requests == pytest.approx(1.0, rel=0.01)
