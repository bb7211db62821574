"""The compiled drafter drafts what the eager one drafts, whatever the heads, the sampling and the lengths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from outrider.drafter.config import DSparkConfig
from outrider.drafter.dspark import DSparkProposer
from outrider.drafter.model import DSparkModel
from outrider.speculation import RowSampling
from outrider_kernels import library
from outrider_kernels.decoder_step import CACHE_VARIABLE
from support.tiny import TinyPair

pytestmark = pytest.mark.usefixtures("compiled")

HEADS = {
    "vanilla": {"markov_head_type": "vanilla"},
    "gated": {"markov_head_type": "gated"},
    "rnn": {"markov_head_type": "rnn"},
    "dflash": {"markov_rank": 0, "enable_confidence_head": False},
    "confidence of the hidden state alone": {"confidence_head_with_markov": False},
    "one token, one layer": {"block_size": 1, "num_hidden_layers": 1},
}


def model_of(pair: TinyPair, **overrides: object) -> DSparkModel:
    """The pair's drafter with other heads, random ones."""
    config = DSparkConfig.load(pair.drafter).model_copy(update=overrides)
    torch.manual_seed(5)
    return DSparkModel(config).eval().requires_grad_(False)


def proposers(model: DSparkModel) -> tuple[DSparkProposer, DSparkProposer]:
    compiled, eager = DSparkProposer(model), DSparkProposer(model, compiled=False)
    assert compiled.compiled is not None
    assert compiled.compiled.ready
    return compiled, eager


@torch.inference_mode()
def drafted(proposer: DSparkProposer, lengths: list[int], sampling: RowSampling) -> tuple[Tensor, Tensor]:
    """Blocks after contexts of the given lengths, of which the last eighth came in a second round."""
    generator = torch.Generator().manual_seed(6)
    rows = [torch.randn(length, proposer.row_size, generator=generator) for length in lengths]
    slots = [proposer.acquire() for _ in lengths]
    cuts = [length - length // 8 for length in lengths]
    for begins, ends in (([0] * len(lengths), cuts), (cuts, lengths)):
        pieces = [(slot, r, b, e) for slot, r, b, e in zip(slots, rows, begins, ends, strict=True) if e > b]
        proposer.append(
            [(slot, e - b) for slot, _, b, e in pieces],
            torch.cat([torch.arange(b, e) for _, _, b, e in pieces]),
            torch.cat([r[b:e] for _, r, b, e in pieces]),
            torch.empty(0, dtype=torch.int64),
        )
    tokens, confidence = proposer.propose(slots, torch.arange(len(lengths)), torch.tensor(lengths), sampling)
    for slot in slots:
        proposer.release(slot)
    return tokens, confidence


@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("heads", HEADS)
def test_blocks_are_the_eager_ones(pair: TinyPair, heads: str, top_p: float) -> None:
    compiled, eager = proposers(model_of(pair, **HEADS[heads]))
    lengths = [1, 63, 8, 150, 17]
    sampling = RowSampling.of([0.0, 1.0, 0.7, 0.0, 1.3], [top_p] * 5, [3, 4, 5, 6, 7], [0, 0, 1, 0, 2])
    for _ in range(2):  # the second time in slots that were used before
        found, expected = drafted(compiled, lengths, sampling), drafted(eager, lengths, sampling)
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)


def test_contexts_outlive_the_take_over(pair: TinyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    library.cache_clear()
    proposer = DSparkProposer(DSparkModel.load(pair.drafter))
    assert proposer.compiled is not None
    assert not proposer.compiled.ready
    sampling = RowSampling.of([0.0], [1.0], [0], [0])
    rows = torch.randn(40, proposer.row_size, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        slot = proposer.acquire()
        proposer.append([(slot, 40)], torch.arange(40), rows, torch.empty(0, dtype=torch.int64))
        eager = proposer.propose([slot], torch.tensor([3]), torch.tensor([40]), sampling)
        assert proposer.compiled.pending.wait() is not None
        found = proposer.propose([slot], torch.tensor([3]), torch.tensor([40]), sampling)
    assert torch.equal(found[0], eager[0])
    torch.testing.assert_close(found[1], eager[1], rtol=1e-4, atol=1e-4)


def test_what_stays_eager(pair: TinyPair) -> None:
    assert DSparkProposer(model_of(pair).to(torch.bfloat16)).compiled is None
    assert DSparkProposer(model_of(pair), compiled=False).compiled is None
