"""The rejection rule against exact enumeration, and its noise: independent by round, slot and stream."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from outrider.speculation import (
    DraftedRows,
    RejectionRule,
    RowSampling,
    SparseDraft,
    SparseProbs,
    Stream,
    residual,
    stream_uniform,
    token_probs,
)

VOCAB = 11


def logits(rows: int, spread: float, seed: int) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread


def sampling(
    count: int, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> RowSampling:
    """Rows of seeds 0 to count − 1."""
    cuts = [top_k] * count, [min_p] * count
    return RowSampling.of([temperature] * count, [top_p] * count, range(count), [0] * count, *cuts)


WAYS = [
    {}, {"temperature": 0.6}, {"top_p": 0.7}, {"top_k": 4}, {"min_p": 0.2},
    {"temperature": 1.4, "top_p": 0.9, "top_k": 7, "min_p": 0.05},
]  # fmt: skip


@pytest.mark.parametrize("ways", list(itertools.product(WAYS, WAYS)), ids=str)
@pytest.mark.parametrize("width", [1, 3, VOCAB])
def test_accepting_and_the_residual_make_up_p(ways: tuple[dict[str, float], dict[str, float]], width: int) -> None:
    """Σ_x q(x)·(accept x: x, else: residual) = p, for q cut and warmed as p is and otherwise."""
    of_p, of_q = (sampling(40, **way) for way in ways)  # type: ignore[arg-type]
    p = token_probs(logits(40, 2.0, 1), of_p)
    q = SparseDraft(width).probs(logits(40, 2.0, 2), of_q)
    accepted = torch.zeros(p.shape).double()
    for place in range(width):
        token, chance = q.tokens[:, place : place + 1], q.probs[:, place : place + 1].double()
        accepted.scatter_add_(1, token, torch.minimum(p.gather(1, token).double(), chance))
    left = residual(p, q).double()
    rejected = 1 - accepted.sum(dim=1, keepdim=True)
    total = accepted + rejected * left / left.sum(dim=1, keepdim=True)
    torch.testing.assert_close(total, p.double(), atol=2e-7, rtol=0)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_wide_q_is_what_the_target_would_sample_from(way: dict[str, float]) -> None:
    rows, found = sampling(40, **way), logits(40, 2.0, 3)  # type: ignore[arg-type]
    q = SparseDraft(VOCAB).probs(found, rows)
    torch.testing.assert_close(torch.zeros(40, VOCAB).scatter(1, q.tokens, q.probs), token_probs(found, rows))


def test_where_nothing_is_left_the_residual_is_p() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    same = SparseProbs(torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0.5, 0.5], [0.6, 0.2]]))
    torch.testing.assert_close(residual(p, same), torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.3, 0.0]]))
    torch.testing.assert_close(residual(p, SparseProbs.empty(2, 1)), p)


@pytest.mark.parametrize("last", ["bonus", "refused", "cut"])
def test_two_tokens_follow_the_joint(last: str) -> None:
    """Draft of two from a wrong q; the second is verified, cut before it was, or known to be impossible.

    First token: p, whatever q. Second: p again, where the first was accepted.
    """
    count, p = 40_000, torch.tensor([0.5, 0.3, 0.2])
    target = p.log()
    if last == "refused":
        p = torch.tensor([0.625, 0.375, 0.0])  # a grammar forbids the last token at the second row
    drafter = torch.tensor([0.2, 0.2, 0.6]).log()
    drawing = replace(sampling(count), rounds=torch.zeros(count).long())
    noise = SparseDraft().noise(drawing, 2, 3)
    drafts = [SparseDraft().draw(drafter.expand(count, 3), drawing, noise[:, slot]) for slot in range(2)]
    tokens = torch.stack([token for token, _ in drafts], 1).tolist()
    row_tokens, seeds, judged, lengths, q_rows, shaped = [], [], [], [], [], []
    for request, (first, second) in enumerate(tokens):
        if last == "bonus" or (last == "refused" and second != 2):
            block, mass = [first, second, 0], [True, True, False]
        else:
            block, mass = [first, 0], [True, last == "refused"]
        row_tokens += block
        judged += [*[True] * (len(block) - 1), False]
        q_rows += mass
        seeds += [request] * len(block)
        lengths.append(len(block))
        shaped += [target, *[p.log()] * (len(block) - 1)]
    q = drafts[0][1]
    every = SparseProbs(q.tokens[:1].expand(len(q_rows), -1), q.probs[:1] * torch.tensor(q_rows)[:, None])
    n = len(row_tokens)
    judging = replace(RowSampling.of([1.0] * n, [1.0] * n, seeds, [0] * n), rounds=torch.ones(n).long())
    accepted, ends = RejectionRule().verify(
        torch.stack(shaped), judging, DraftedRows(torch.tensor(row_tokens), every, torch.tensor(judged), lengths)
    )
    emitted = [[*block[:a], end] for block, a, end in zip(tokens, accepted, ends, strict=True)]
    assert fits([block[0] for block in emitted], [0.5, 0.3, 0.2])
    for first in range(3):
        assert fits([b[1] for b in emitted if b[0] == first and len(b) > 1], p.tolist())


def fits(tokens: list[int], probs: list[float]) -> bool:
    """Whether the tokens may have been drawn with these probabilities, p > 1e-3."""
    chances = np.array(probs) / sum(probs)
    counts = np.bincount(tokens, minlength=len(probs))
    possible = chances > 0
    assert counts[~possible].sum() == 0
    return bool(chisquare(counts[possible], chances[possible] * counts.sum()).pvalue > 1e-3)


def test_streams_are_independent_of_each_other() -> None:
    """Neighbouring seeds, rounds, slots and streams, and the same lane in another stream."""
    base = {"seeds": 5, "choices": 0, "rounds": 9, "slots": 1}
    count = 20_000

    def drawn(stream: Stream, **changes: int) -> Tensor:
        columns = {name: torch.full((count,), value + changes.get(name, 0)) for name, value in base.items()}
        columns["seeds"] += torch.arange(count)
        return stream_uniform(*columns.values(), stream, 1)[:, 0]

    own = drawn(Stream.DRAFT)
    others = [drawn(stream) for stream in (Stream.ACCEPT, Stream.FINAL)]
    others += [drawn(Stream.DRAFT, **{name: 1}) for name in ("choices", "rounds", "slots")]
    for other in others:
        table, _, _ = np.histogram2d(own.numpy(), other.numpy(), bins=8, range=((0, 1), (0, 1)))
        assert chi2_contingency(table).pvalue > 1e-4
        assert not torch.equal(own, other)
