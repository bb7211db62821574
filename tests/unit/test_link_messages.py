"""A round or a block that is not what it says is refused with a LinkError."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import outrider.link
from outrider.errors import LinkError
from outrider.link import DraftBlock, DraftRound, check_block, check_round

VOCAB, HIDDEN, CONTEXT, GAMMA = 50, 8, 64, 3


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def a_round() -> DraftRound:
    return DraftRound(
        epoch=7,
        round=1,
        append_keys=ints(11, 12),
        append_starts=ints(0, 5),
        append_counts=ints(3, 1),
        rows=torch.zeros(4, HIDDEN),
        append_tokens=ints(0, 49, 3, 3),
        propose_keys=ints(12, 13),
        anchors=ints(0, 49),
        positions=ints(6, 0),
        temperature=torch.tensor([0.0, 1.5]),
        top_p=torch.tensor([1.0, 0.5]),
        seeds=ints(-3, 4),
        choices=ints(0, 1),
    )


def a_block(**changes: Any) -> DraftBlock:
    tokens = torch.zeros(2, GAMMA, dtype=torch.int64)
    return replace(DraftBlock(7, 1, tokens, torch.full((2, GAMMA), -torch.inf)), **changes)


def check(message: DraftRound) -> None:
    check_round(message, vocab_size=VOCAB, row_size=HIDDEN, context_tokens=CONTEXT)


def test_every_exported_name_exists_and_is_sorted() -> None:
    assert outrider.link.__all__ == sorted(outrider.link.__all__)
    for name in outrider.link.__all__:
        assert getattr(outrider.link, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = outrider.link.nothing


def test_good_rounds_pass() -> None:
    check(a_round())
    check(replace(a_round(), top_k=ints(0, 40), min_p=torch.tensor([0.0, 1.0])))
    check(replace(a_round(), rounds=ints(-1, 5)))
    check(DraftRound(epoch=7, round=2))
    check(DraftRound(epoch=7, round=2, frees=(1, 2)))
    check_round(replace(a_round(), rows=torch.zeros(4, 0)), vocab_size=VOCAB, row_size=0, context_tokens=CONTEXT)


@pytest.mark.parametrize(
    "changes",
    [
        {"append_keys": ints(11)},
        {"append_keys": ints(11, 11)},
        {"append_keys": ints(11, -1)},
        {"append_keys": ints(11, 12).int()},
        {"append_keys": ints(11, 12)[None]},
        {"append_starts": ints(0, -1)},
        {"append_starts": ints(0, CONTEXT)},
        {"append_starts": ints(0, 2**63 - 1)},
        {"append_counts": ints(4, 0)},
        {"append_counts": ints(5, -1)},
        {"append_counts": ints(3, 2)},
        {"rows": torch.zeros(4, HIDDEN + 1)},
        {"rows": torch.zeros(4, HIDDEN, dtype=torch.int64)},
        {"rows": torch.zeros(4 * HIDDEN)},
        {"append_tokens": ints(0, 49, 3)},
        {"append_tokens": ints(0, 49, 3, VOCAB)},
        {"append_tokens": ints(0, 49, 3, -1)},
        {"append_tokens": ints(0, 49, 3, 3).int()},
        {"append_tokens": ints(0, 49, 3, 3)[:, None]},
        {"propose_keys": ints(13, 13)},
        {"propose_keys": ints(12, 13, 14)},
        {"anchors": ints(0, VOCAB)},
        {"anchors": ints(-1, 0)},
        {"positions": ints(6, -1)},
        {"positions": ints(6, CONTEXT)},
        {"temperature": torch.tensor([0.0, -1.0])},
        {"temperature": torch.tensor([0.0, torch.nan])},
        {"temperature": torch.tensor([0.0, torch.inf])},
        {"temperature": torch.tensor([0.0, 1.0], dtype=torch.float64)},
        {"top_p": torch.tensor([1.1, 1.0])},
        {"top_p": torch.tensor([1.0, torch.nan])},
        {"top_k": ints(0, -1)},
        {"top_k": ints(3)},
        {"top_k": torch.zeros(2)},
        {"min_p": torch.tensor([0.0, 1.5])},
        {"min_p": torch.tensor([0.0, torch.nan])},
        {"min_p": torch.tensor([0.1])},
        {"min_p": torch.zeros(2, dtype=torch.float64)},
        {"rounds": ints(-1)},
        {"rounds": ints(-1, -2)},
        {"rounds": ints(0, -1)},  # the first row is greedy
        {"rounds": torch.zeros(2)},
        {"seeds": ints(1)},
        {"choices": torch.zeros(2)},
    ],
)
def test_malformed_rounds_are_refused(changes: dict[str, Tensor]) -> None:
    with pytest.raises(LinkError):
        check(replace(a_round(), **changes))


def test_good_blocks_pass() -> None:
    check_block(a_block(missing=(13,)), a_round(), block_size=GAMMA, vocab_size=VOCAB)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 8},
        {"round": 2},
        {"tokens": torch.zeros(2, GAMMA + 1, dtype=torch.int64)},
        {"tokens": torch.zeros(1, GAMMA, dtype=torch.int64)},
        {"tokens": torch.zeros(2, GAMMA)},
        {"tokens": torch.full((2, GAMMA), VOCAB)},
        {"tokens": torch.full((2, GAMMA), -1)},
        {"confidence_logits": torch.zeros(2, GAMMA, dtype=torch.float64)},
        {"confidence_logits": torch.zeros(2)},
        {"confidence_logits": torch.full((2, GAMMA), torch.nan)},
        {"missing": (11,)},
    ],
)
def test_malformed_blocks_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(LinkError):
        check_block(a_block(**changes), a_round(), block_size=GAMMA, vocab_size=VOCAB)


def judged_round() -> DraftRound:
    """One of the two proposals is under the rejection rule."""
    return replace(a_round(), rounds=ints(-1, 5))


def judged_block(**changes: Any) -> DraftBlock:
    """Its tokens are 3, 4, 5; each was drawn from two, and the last slot proposes nothing."""
    tokens = torch.tensor([[0, 0, 0], [3, 4, 5]])
    confidence = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, -torch.inf]])
    q_tokens = torch.tensor([[3, 9, 8, 4, 0, 0]])
    q_probs = torch.tensor([[0.25, 0.75, 0.5, 0.5, 0.0, 0.0]])
    return replace(DraftBlock(7, 1, tokens, confidence, q_tokens=q_tokens, q_probs=q_probs), **changes)


def test_blocks_with_draft_probabilities_pass() -> None:
    check_block(judged_block(), judged_round(), block_size=GAMMA, vocab_size=VOCAB)
    certain = judged_block(q_tokens=ints(3, 4, 5)[None], q_probs=torch.ones(1, GAMMA))
    check_block(certain, judged_round(), block_size=GAMMA, vocab_size=VOCAB)
    nothing = replace(judged_block(), confidence_logits=torch.full((2, GAMMA), -torch.inf), missing=(12, 13))
    empty = replace(nothing, q_tokens=torch.zeros(1, GAMMA, dtype=torch.int64), q_probs=torch.zeros(1, GAMMA))
    check_block(empty, judged_round(), block_size=GAMMA, vocab_size=VOCAB)
    none = replace(judged_round(), rounds=ints(-1, -1))
    check_block(judged_block(q_tokens=a_block().q_tokens, q_probs=a_block().q_probs), none, block_size=3, vocab_size=50)


@pytest.mark.parametrize(
    "changes",
    [
        {"q_tokens": torch.zeros(0, 0, dtype=torch.int64), "q_probs": torch.zeros(0, 0)},
        {"q_tokens": torch.zeros(1, 0, dtype=torch.int64), "q_probs": torch.zeros(1, 0)},
        {"q_tokens": torch.tensor([[3, 9, 8, 4, 0, 0]] * 2), "q_probs": torch.full((2, 6), 0.5)},
        {"q_tokens": torch.tensor([[3, 9, 8, 4, 0]]), "q_probs": torch.full((1, 5), 0.5)},
        {"q_tokens": torch.tensor([[3, 9, 8, 4, 0, VOCAB]])},
        {"q_tokens": torch.tensor([[3, 9, 8, 4, 0, -1]])},
        {"q_tokens": torch.tensor([[3, 9, 8, 7, 0, 0]])},  # 4 cannot have been drawn
        {"q_tokens": torch.tensor([[3, 3, 8, 4, 0, 0]])},  # twice the same token
        {"q_tokens": torch.tensor([3, 9, 8, 4, 0, 0])},
        {"q_probs": torch.tensor([[0.0, 1.0, 0.5, 0.5, 0.0, 0.0]])},  # 3 cannot have been drawn
        {"q_probs": torch.tensor([[0.25, 0.7, 0.5, 0.5, 0.0, 0.0]])},
        {"q_probs": torch.tensor([[0.25, 0.75, 0.5, 0.5, 0.1, 0.0]])},
        {"q_probs": torch.tensor([[1.25, -0.25, 0.5, 0.5, 0.0, 0.0]])},
        {"q_probs": torch.tensor([[0.25, torch.nan, 0.5, 0.5, 0.0, 0.0]])},
        {"q_probs": torch.tensor([[torch.inf, 0.75, 0.5, 0.5, 0.0, 0.0]])},
        {"q_probs": torch.zeros(1, 6)},
        {"q_probs": torch.full((1, 6), 0.5, dtype=torch.float64)},
    ],
)
def test_draft_probabilities_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(LinkError):
        check_block(judged_block(**changes), judged_round(), block_size=GAMMA, vocab_size=VOCAB)


def test_draft_probabilities_nobody_asked_for_are_refused() -> None:
    with pytest.raises(LinkError):
        check_block(judged_block(), a_round(), block_size=GAMMA, vocab_size=VOCAB)
