"""The coupled rule: accept while alike, emit the target's token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.speculation import CoupledRule, accepted_length


@pytest.mark.parametrize(
    ("drafted", "chosen", "emitted"),
    [
        ([], [4], [4]),
        ([4], [4, 9], [4, 9]),
        ([4], [5, 9], [5]),
        ([1, 2, 3], [1, 2, 3, 7], [1, 2, 3, 7]),
        ([1, 2, 3], [1, 2, 8, 7], [1, 2, 8]),
        ([1, 2, 3], [1, 9, 3, 7], [1, 9]),
        ([1, 2, 3], [0, 2, 3, 7], [0]),
    ],
)
def test_a_round(drafted: list[int], chosen: list[int], emitted: list[int]) -> None:
    assert CoupledRule().emit(drafted, chosen) == (emitted, len(emitted) - 1)


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_only_the_targets_choices_are_emitted(drafted: list[int], choices: list[int]) -> None:
    chosen = choices[: len(drafted) + 1]
    emitted, accepted = CoupledRule().emit(drafted, chosen)
    assert emitted == chosen[: len(emitted)]
    assert emitted[:accepted] == drafted[:accepted]
    assert len(emitted) == accepted + 1
    assert accepted == len(drafted) or drafted[accepted] != chosen[accepted]
    assert accepted == accepted_length(drafted, chosen)
