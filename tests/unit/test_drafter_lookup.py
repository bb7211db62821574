"""Prompt lookup: the longest suffix first, the most recent match, nothing from the future."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outrider.drafter.lookup import LONGEST_NGRAM, lookup_blocks


def naive(tokens: list[int], anchor: int, gamma: int) -> list[int]:
    """Search by hand: every earlier place, longest suffix first, latest place first."""
    known = tokens[: anchor + 1]
    for length in range(min(LONGEST_NGRAM, len(known)), 0, -1):
        suffix = known[len(known) - length :]
        for end in range(len(known) - 1, length - 1, -1):
            if known[end - length : end] == suffix:
                return known[end : end + gamma]
    return []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 9), st.data())
def test_equals_a_search_by_hand(tokens: list[int], gamma: int, data: st.DataObject) -> None:
    anchors = data.draw(st.lists(st.integers(0, len(tokens) - 1), max_size=6))
    assert lookup_blocks(tokens, anchors, gamma) == [naive(tokens, anchor, gamma) for anchor in anchors]


def test_what_comes_after_the_anchor_is_not_looked_at() -> None:
    tokens = [1, 2, 3, 9, 1, 2]
    assert lookup_blocks(tokens, [1], 4) == [[]]
    assert lookup_blocks([*tokens, 7, 7, 7], [5], 4) == lookup_blocks(tokens, [5], 4) == [[3, 9, 1, 2]]


def test_the_longest_suffix_beats_a_more_recent_short_one() -> None:
    assert lookup_blocks([5, 6, 7, 8, 6, 1, 5, 6], [7], 2) == [[7, 8]]


def test_of_equal_suffixes_the_most_recent_wins() -> None:
    assert lookup_blocks([6, 1, 6, 2, 6], [4], 1) == [[2]]


def test_a_run_of_one_token_proposes_itself() -> None:
    assert lookup_blocks([4, 4, 4], [2], 3) == [[4]]
