"""The bounds of kept answers hold after every step, and what is kept comes back as it went in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.gateway.answers import Answers, Kept
from outrider.gateway.choice import Piece
from outrider.gateway.logprobs import Placed
from outrider.policy import Cache
from outrider.text import CallDelta
from outrider.types import BatchClass, Decision, TokenLogprob

DECISION = Decision(
    "dec-1", "flash", "flash-0", 3, BatchClass("balanced"), "0" * 12, "cheapest", 0.1, 0.01, 1e-5, None, 64
)

texts = st.text(max_size=40)
calls = st.lists(st.builds(CallDelta, st.integers(0, 3), st.none() | texts, texts), max_size=2).map(tuple)
entries = st.builds(TokenLogprob, st.integers(0, 300), st.floats(-9, 0), st.just(((1, -0.5), (2, -1.0))))
logprobs = st.none() | st.lists(
    st.builds(Placed, st.integers(0, 300), st.none() | entries, st.integers(0, 99)), max_size=3
)
pieces = st.builds(Piece, st.integers(0, 3), texts, st.sampled_from(["stop", "length"]), calls, logprobs)
answers = st.builds(
    Kept, st.just(DECISION), st.just("fp_1"), st.lists(pieces, min_size=1, max_size=3).map(tuple),
    st.integers(1, 99), st.integers(1, 99), st.integers(1, 99),
)  # fmt: skip
bytes_allowed = st.sampled_from([1024, 1500, 4000])
rules = st.builds(Cache, st.just(True), st.sampled_from([1.0, 10.0]), st.integers(1, 4), bytes_allowed, st.just(0.1))
steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "get", "drop"]), st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), answers,
              rules, st.sampled_from([0.0, 0.5, 6.0])),
    max_size=30,
)  # fmt: skip


def run(cache: Answers, script: list[tuple[Any, ...]]) -> None:
    """Against a plain model: what was put last under a key, and when."""
    put: dict[bytes, tuple[float, Kept]] = {}
    now_s = 0.0
    for kind, key, answer, bounds, pass_s in script:
        now_s += pass_s
        if kind == "put":
            cache.put(key, answer, now_s, bounds)
            put[key] = now_s, answer
            assert len(cache) <= bounds.max_entries
            assert cache.size_bytes <= bounds.max_bytes
        elif kind == "drop":
            cache.drop(key)
            put.pop(key, None)
            assert cache.get(key, now_s, bounds) is None
        elif (found := cache.get(key, now_s, bounds)) is not None:
            put_s, kept = put[key]
            assert found == kept
            assert now_s - put_s <= bounds.ttl_s
    held = sum(len(key) + len(encoded) for key, (_, encoded) in cache._kept.items())
    assert cache.size_bytes == held
    for key in put:
        cache.drop(key)
    assert len(cache) == cache.size_bytes == 0


@given(steps)
def test_bounds_hold_and_answers_come_back(script: list[tuple[Any, ...]]) -> None:
    run(Answers(), script)


def test_the_least_recently_used_goes_first() -> None:
    cache, bounds = Answers(), Cache(True, 10.0, 2, 10**6, 0.1)
    answer = Kept(DECISION, "fp", (Piece(0, "hello", "stop"),), 1, 1, 1)
    for key in (b"a", b"b"):
        cache.put(key, answer, 0.0, bounds)
    assert cache.get(b"a", 1.0, bounds) == answer
    cache.put(b"c", answer, 2.0, bounds)
    assert [cache.get(key, 2.0, bounds) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


class NoClock(Answers):
    def get(self, key: bytes, now_s: float, rules: Cache) -> Kept | None:
        return super().get(key, 0.0, rules)


class ForgetsBytes(Answers):
    def drop(self, key: bytes) -> None:
        self._kept.pop(key, None)


class Boundless(Answers):
    def put(self, key: bytes, answer: Kept, now_s: float, rules: Cache) -> None:
        super().put(key, answer, now_s, Cache(True, rules.ttl_s, 10**6, 10**9, 0.1))


@pytest.mark.parametrize("broken", [NoClock, ForgetsBytes, Boundless])
def test_a_broken_cache_is_found(broken: type[Answers]) -> None:
    @given(steps)
    @settings(max_examples=2000, derandomize=True, database=None, report_multiple_bugs=False)
    def check(script: list[tuple[Any, ...]]) -> None:
        run(broken(), script)

    with pytest.raises(AssertionError):
        check()
