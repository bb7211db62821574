"""The reference of verification says what `outrider.speculation` says."""

from __future__ import annotations

import pytest
import torch

from outrider.speculation import sampling
from outrider.speculation.coupled import accepted_length
from outrider.speculation.rejection import DraftedRows, RejectionRule
from outrider.speculation.sampling import RowSampling
from outrider.speculation.sparse import SparseProbs
from outrider_kernels.verification import reference
from support.verification import Batch, Hand, batch, shape_of

SHAPES = [
    Hand(4),
    Hand(0, temperature=0.7),
    Hand(3, temperature=0.0),
    Hand(7, top_p=0.9),
    Hand(2, top_k=5),
    Hand(5, temperature=1.3, top_k=20, top_p=0.7, min_p=0.05),
    Hand(1, min_p=0.2),
]


def _sampling(b: Batch, picked: torch.Tensor | None = None) -> RowSampling:
    rows = b.rows
    every = torch.arange(len(rows.seeds)) if picked is None else picked
    return RowSampling(
        rows.temperature,
        rows.top_p,
        rows.seeds,
        rows.choices,
        top_k=rows.top_k,
        min_p=rows.min_p,
        rounds=rows.rounds,
    ).index(every)


@pytest.mark.parametrize("vocab", [1, 63, 1000])
def test_distributions_and_choices(vocab: int) -> None:
    b = batch([*SHAPES, None], vocab, seed=vocab)
    probs = reference.token_probs(b.logits, *shape_of(b.rows))
    torch.testing.assert_close(probs, sampling.token_probs(b.logits, _sampling(b)), rtol=1e-5, atol=1e-9)
    racers = (b.rows.seeds, b.rows.choices, b.rows.positions)
    found = reference.choose(b.logits, *shape_of(b.rows), *racers, random=True, cuts=True)
    assert torch.equal(found, sampling.choose(b.logits, _sampling(b), b.rows.positions))


@pytest.mark.parametrize("vocab", [1, 63, 1000])
def test_coupled_rounds(vocab: int) -> None:
    b = batch([*SHAPES, None, *SHAPES], vocab, seed=vocab)
    found = reference.verify(b.logits, b.rows, b.drafted, b.query_start, **b.flags)
    chosen = sampling.choose(b.logits, _sampling(b), b.rows.positions)
    for r, (start, end) in enumerate(zip(b.query_start[:-1].tolist(), b.query_start[1:].tolist(), strict=True)):
        if start == end:
            assert (found.accepted[r], found.last[r]) == (0, -1)
            continue
        accepted = accepted_length(b.drafted.tokens[start : end - 1].tolist(), chosen[start:end].tolist())
        assert (found.accepted[r], found.last[r]) == (accepted, chosen[start + accepted])
    told = torch.log_softmax(b.logits, dim=-1).gather(1, chosen[:, None]).squeeze(1)
    torch.testing.assert_close(found.logprobs, told)
    assert found.accepted.sum() > 0 or vocab == 1


@pytest.mark.parametrize("vocab", [1, 63, 1000])
def test_rejection_rounds(vocab: int) -> None:
    hot = [hand for hand in SHAPES if hand.temperature > 0]
    hands = [Hand(h.length, h.temperature, h.top_p, h.top_k, h.min_p, rejects=True) for h in hot * 4]
    b = batch(hands, vocab, seed=vocab)
    found = reference.verify(b.logits, b.rows, b.drafted, b.query_start, **b.flags)
    assert b.drafted.q_tokens is not None
    assert b.drafted.q_probs is not None
    tokens, judged = b.drafted.tokens.clamp(min=0), b.drafted.tokens >= 0
    lengths = (b.query_start[1:] - b.query_start[:-1]).tolist()
    drafted = DraftedRows(tokens, SparseProbs(b.drafted.q_tokens, b.drafted.q_probs), judged, lengths)
    accepted, last = RejectionRule().verify(b.logits, _sampling(b), drafted)
    assert found.accepted.tolist() == accepted
    assert found.last.tolist() == last
    ends = b.query_start[:-1] + found.accepted
    told = torch.log_softmax(b.logits, dim=-1)[ends.long(), found.last]
    torch.testing.assert_close(found.logprobs[ends.long()], told)
    assert vocab == 1 or 0 < sum(accepted) < sum(hand.length for hand in hands)
