"""What is foretold of a request's next block: from its own blocks, from everybody's while it is new."""

from __future__ import annotations

import numpy as np
import pytest

from outrider.scheduling import Forecast

GOOD, BAD = np.array([0.9, 0.8, 0.7]), np.array([0.3, 0.1, 0.0])


def test_a_new_request_is_what_requests_of_its_class_were() -> None:
    forecast = Forecast(3)
    assert forecast.expected(["greedy"], [None])[0] == pytest.approx([0.8, 0.64, 0.512])
    for _ in range(400):
        forecast.after("greedy", None, GOOD)
        forecast.after("sampled", None, BAD)
    greedy, sampled = forecast.expected(["greedy", "sampled"], [None, None])
    assert greedy == pytest.approx(GOOD, abs=1e-3)
    assert sampled == pytest.approx(BAD, abs=1e-3)


def test_its_own_blocks_soon_count_for_more() -> None:
    forecast = Forecast(3)
    for _ in range(100):
        forecast.after("greedy", None, BAD)
    own = None
    for _ in range(10):
        own = forecast.after("greedy", own, GOOD)
    mine, others = forecast.expected(["greedy", "greedy"], [own, None])
    assert mine == pytest.approx(GOOD, abs=0.05)
    assert others[0] < 0.5


def test_confidences_that_promise_too_much_are_discounted() -> None:
    forecast = Forecast(3)
    for _ in range(500):
        forecast.after("greedy", None, GOOD)
        forecast.learn("greedy", float(GOOD.sum()), 1)
    assert forecast.expected(["greedy"], [None])[0] == pytest.approx(GOOD / GOOD.sum(), rel=0.05)


def test_nothing_is_foretold_above_certainty() -> None:
    forecast = Forecast(3)
    for _ in range(500):
        forecast.after("greedy", None, GOOD)
        forecast.learn("greedy", 1.0, 3)
    assert forecast.expected(["greedy"], [None]).max() == 1.0
