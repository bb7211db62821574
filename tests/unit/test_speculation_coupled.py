"""The coupled rule: accept while alike, emit the target's token, processors in order and with history."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outrider.speculation import CoupledRule, RowSampling, accepted_length

GREEDY = RowSampling.of([0.0, 0.0], [1.0, 1.0], [0, 0], [0, 0])


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


class Forbid:
    """Makes one token impossible after another."""

    def __init__(self, after: int, token: int) -> None:
        self.after, self.token = after, token
        self.seen: list[list[int]] = []

    def __call__(self, logits: Tensor, prefixes: Sequence[Sequence[int]]) -> Tensor:
        self.seen += [list(prefix) for prefix in prefixes]
        logits = logits.clone()
        logits[[prefix[-1] == self.after for prefix in prefixes], self.token] = -torch.inf
        return logits


def test_processors_see_each_rows_own_history_and_run_in_order() -> None:
    first, second = Forbid(5, 3), Forbid(5, 2)
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    rule = CoupledRule((first, second))
    assert rule.choose(logits, GREEDY, torch.tensor([2, 3]), [[9, 5], [9, 5, 4]]) == [1, 3]
    assert first.seen == second.seen == [[9, 5], [9, 5, 4]]


def test_without_processors_no_history_is_needed() -> None:
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert CoupledRule().choose(logits, GREEDY, torch.tensor([2, 3]), None) == [1, 0]
