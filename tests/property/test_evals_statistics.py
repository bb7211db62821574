"""Statistics and checks of evals, over whatever hypothesis thinks of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from outrider.evals import Outcome, Result, compare
from outrider.evals.checks import Check, Exact, Pattern, Property
from outrider.evals.intervals import accuracy, difference, mcnemar, ratio, wilson

CHECKS: list[Check] = [
    *(Exact(type="exact", answer="7", extract=part) for part in ("none", "last_number", "first_line", "code")),
    Exact(type="exact", answer=["a", "1"], ignore_case=True, strip_punctuation=False),
    Pattern(type="pattern", any=[r"a+$"], none=["x"], full_match=True),
    Property(type="property", python_parses=True, max_words=10**6),
    Property(type="property", json_valid=True, json_keys=["a"]),
    Property(type="property", contains=["a"], starts_with="b", ends_with="c", matches="d", lines=2, ignore_case=True),
]
PIECES = st.sampled_from(
    ["```python\n", "```", "\n", "{", "}", "[", '"a"', ":", "1e999", "9" * 5000, "-", ",", "(" * 200, "\x00", "\ud800"]
)  # fmt: skip
TEXTS = st.text() | st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join)


@given(st.sampled_from(CHECKS), TEXTS)
@settings(max_examples=400, deadline=None)
def test_checks_never_raise_and_say_why(check: Check, text: str) -> None:
    verdict = check.judge(text)
    assert verdict.correct or verdict.why


@given(st.text(max_size=40))
@settings(max_examples=15, deadline=None)
def test_running_any_text_never_raises(text: str) -> None:
    check = Property.model_validate(
        {"type": "property", "python_runs": {"calls": [{"call": "f(1)", "returns": "1"}], "time_s": 1.0}}
    )
    assert not check.judge(f"```python\n{text}\n```").correct


RIGHT = st.lists(st.booleans(), min_size=1, max_size=60)


@given(RIGHT, st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_the_accuracy_and_is_never_a_point(right: list[bool], groups: int) -> None:
    found = accuracy(right, [str(n % groups) for n in range(len(right))])
    share = sum(right) / len(right)
    assert 0 <= found.low <= found.high <= 1
    assert found.low - 1e-9 <= share <= found.high + 1e-9
    if share in (0.0, 1.0):
        assert found.method == "wilson"
        assert found.low < found.high


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_bootstrap_intervals_cover(share: float) -> None:
    """About 95 of 100 intervals hold the truth; 160 draws leave a standard error of 1.7 points."""
    rng = np.random.default_rng(7)
    names = [str(n) for n in range(60)]
    draws = [accuracy(list(rng.random(60) < share), names) for _ in range(160)]
    covered = np.mean([share in interval for interval in draws])
    assert 0.89 <= covered <= 0.99


def test_grouped_items_widen_an_interval() -> None:
    """Ten copies of twelve answers are worth twelve answers, not 120."""
    right = [n % 3 != 0 for n in range(12) for _ in range(10)]
    alone = accuracy(right, [str(n) for n in range(120)])
    grouped = accuracy(right, [str(n // 10) for n in range(120)])
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 7), (1, 1), (640, 640)])
def test_wilson_is_wilson_s(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    found = wilson(successes, trials)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
@settings(max_examples=80, deadline=None)
def test_mcnemar_is_the_exact_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    won, lost = sum(b > a for a, b in pairs), sum(a > b for a, b in pairs)
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, abs=1e-9)


def outcome(number: int, right: bool, seconds: float, group: int) -> Outcome:
    kind = "correct" if right else "wrong"
    return Outcome("s", str(number), "d", "x", str(group), kind, first_s=seconds, total_s=2 * seconds, cost_usd=seconds)


PAIRS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.floats(0.01, 10), st.floats(0.01, 10), st.integers(0, 20)),
    min_size=1,
    max_size=40,
)


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_comparison_is_antisymmetric(pairs: list[tuple[bool, bool, float, float, int]]) -> None:
    one = Result.of("a", {}, [outcome(n, a, s, g) for n, (a, _, s, _, g) in enumerate(pairs)])
    two = Result.of("b", {}, [outcome(n, b, t, g) for n, (_, b, _, t, g) in enumerate(pairs)])
    there, back = compare(one, two)["all"], compare(two, one)["all"]
    opposite = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}
    assert back.verdict == opposite[there.verdict]
    assert back.difference == pytest.approx(-there.difference)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-12)
    assert (back.won, back.lost) == (there.lost, there.won)
    assert back.mcnemar_p == there.mcnemar_p
    assert there.low - 1e-9 <= there.difference <= there.high + 1e-9
    assert there.cost_ratio is not None
    assert back.cost_ratio is not None
    assert back.cost_ratio.value == pytest.approx(1 / there.cost_ratio.value)


@given(RIGHT)
@settings(max_examples=40, deadline=None)
def test_a_run_against_itself_cannot_tell(right: list[bool]) -> None:
    run = Result.of("a", {}, [outcome(n, each, 1.0, n) for n, each in enumerate(right)])
    found = compare(run, run)["all"]
    assert found.verdict == "cannot tell"
    assert (found.difference, found.won, found.lost) == (0, 0, 0)
    assert found.low < 0 < found.high


@pytest.mark.parametrize(("count", "verdict"), [(1, "cannot tell"), (5, "cannot tell"), (6, "better"), (50, "better")])
def test_a_handful_of_wins_decides_nothing(count: int, verdict: str) -> None:
    one = Result.of("a", {}, [outcome(n, False, 1.0, n) for n in range(count)])
    two = Result.of("b", {}, [outcome(n, True, 1.0, n) for n in range(count)])
    assert compare(one, two)["all"].verdict == verdict


def test_a_ratio_of_times_is_of_medians_with_its_interval() -> None:
    rng = np.random.default_rng(1)
    base = rng.lognormal(size=200)
    found = ratio(list(base), list(2 * base), [str(n) for n in range(200)], median=True)
    assert (found.low, found.high) == pytest.approx((2.0, 2.0))
    assert math.isinf(ratio([], [], [], median=True).high)


def test_difference_without_items_says_nothing() -> None:
    found = difference([], [], [])
    assert (found.low, found.high, found.method) == (-1.0, 1.0, "none")
