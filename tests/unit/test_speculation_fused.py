"""What the two rules hand to the fused kernels says what the rules say; on a GPU they hand it over themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from outrider.speculation.fused import fused_choose, fused_verify
from outrider.speculation.rejection import DraftedRows, RejectionRule
from outrider.speculation.sampling import RowSampling, choose
from outrider.speculation.sparse import SPARSE_DRAFT, SparseProbs
from support.kernels import DEVICE

VOCAB = 50
LENGTHS = [3, 1, 5, 2] * 8
ON_GPU = DEVICE.type == "cuda"
CHOOSERS = [fused_choose, *([choose] if ON_GPU else [])]
RULES = [fused_verify, *([RejectionRule().verify] if ON_GPU else [])]


def _rows(count: int, **cuts: list[float] | list[int]) -> RowSampling:
    heat = [0.0 if row % 5 == 4 else 0.5 + row / count for row in range(count)]
    asked: dict[str, list[float] | list[int]] = {"top_p": [1.0] * count, **cuts}
    return RowSampling.of(heat, seeds=list(range(count)), choices=[row % 3 for row in range(count)], **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "cuts",
    [
        {},
        {"top_p": [0.5, 1.0, 0.9] * 10},
        {"top_k": [0, 4, 9] * 10, "min_p": [0.0, 0.0, 0.3] * 10},
    ],
)
@pytest.mark.parametrize("chooser", CHOOSERS)
def test_choices(cuts: dict[str, list[float] | list[int]], chooser: Callable[..., Tensor]) -> None:
    logits = 3 * torch.randn(30, VOCAB, generator=torch.Generator().manual_seed(1))
    rows, positions = _rows(30, **cuts), torch.arange(30)
    assert torch.equal(chooser(logits.to(DEVICE), rows, positions).cpu(), choose(logits, rows, positions))


@pytest.mark.parametrize("top_k", [0, 6])
@pytest.mark.parametrize("rule", RULES)
def test_rejection_rounds(top_k: int, rule: Callable[..., tuple[list[int], list[int]]]) -> None:
    generator = torch.Generator().manual_seed(2)
    count = sum(LENGTHS)
    logits = 2 * torch.randn(count, VOCAB, generator=generator)
    rows = replace(_rows(count, top_k=[top_k] * count), rounds=torch.arange(count) % 7, temperature=torch.ones(count))
    q = SPARSE_DRAFT.probs(logits + torch.randn(count, VOCAB, generator=generator), rows)
    places = torch.multinomial(q.probs, 1, generator=generator)
    tokens = q.tokens.gather(1, places).squeeze(1)
    ends = torch.tensor([slot == length - 1 for length in LENGTHS for slot in range(length)])
    sure = ends.clone()
    sure[0] = True  # a token that must not be accepted, though it was drafted
    probs = q.probs.masked_fill(ends[:, None], 0.0)
    drafted = DraftedRows(tokens, SparseProbs(q.tokens, probs), ~sure, LENGTHS)
    wanted = RejectionRule().verify(logits, rows, drafted)
    assert rule(logits.to(DEVICE), rows, drafted) == wanted
    assert wanted[0][0] == 0
    assert 0 < sum(wanted[0]) < count - len(LENGTHS)
