"""Block drawing: the reference draws what the eager drafter draws, and the kernel what the reference draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from outrider.drafter.blocks import draw_blocks as eager_blocks
from outrider.drafter.config import DSparkConfig
from outrider.drafter.model import DSparkModel
from outrider.drafter.picks import CoupledPick, MixedPick, drawn_at
from outrider.speculation import RowSampling, SparseDraft
from outrider_kernels.counter_noise import row_keys
from outrider_kernels.counter_noise.reference import torch_row_keys
from outrider_kernels.dispatch import UnsupportedArgument
from outrider_kernels.draft_sampling import DrawRows, SequentialHead, draw_blocks
from support.drafting import draw_rows, head_of
from support.kernels import DEVICE
from support.tiny import TinyPair

TEMPERATURES = [0.0, 1.0, 0.7, 0.0, 1.3]
POSITIONS = [0, 62, 1000, 5, 1 << 40]
GAMMA = 7


def sampling_of(rows: DrawRows) -> RowSampling:
    """The same rows as the eager drafter takes them."""
    return RowSampling(
        rows.temperature, rows.top_p, rows.seeds, rows.choices, random=rows.random, nucleus=rows.cuts,
        top_k=rows.top_k, min_p=rows.min_p, rounds=rows.rounds if rows.rejects else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(pair: TinyPair) -> DSparkModel:
    config = DSparkConfig.load(pair.drafter)
    torch.manual_seed(5)
    return DSparkModel(config).eval().requires_grad_(False).to(DEVICE)


def model_head(model: DSparkModel) -> SequentialHead:
    assert model.markov_head is not None
    assert model.confidence_head is not None
    proj = model.confidence_head.proj
    return SequentialHead(
        model.markov_head.markov_w1.weight, model.markov_head.markov_w2.weight, proj.weight[0], float(proj.bias)
    )


def states(model: DSparkModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hidden = torch.randn(5, GAMMA, model.config.hidden_size, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    return hidden, 2 * model.base_logits(hidden), torch.arange(5, device=DEVICE), torch.tensor(POSITIONS, device=DEVICE)


@pytest.mark.parametrize("cuts", [{}, {"top_p": 0.8}, {"top_k": 4}, {"top_p": 0.9, "top_k": 9, "min_p": 0.05}], ids=str)
@torch.inference_mode()
def test_the_reference_draws_what_the_eager_drafter_draws(model: DSparkModel, cuts: dict[str, float]) -> None:
    hidden, base, anchors, positions = states(model)
    rows = draw_rows(TEMPERATURES, **cuts)  # type: ignore[arg-type]
    pick = CoupledPick(sampling_of(rows), drawn_at(positions, GAMMA), base.shape[-1])
    tokens, confidence = eager_blocks(model, hidden, base, anchors, pick)
    found = draw_blocks(hidden, base, anchors, positions, model_head(model), rows, width=97)
    assert torch.equal(found.tokens, tokens)
    torch.testing.assert_close(found.confidence, confidence, rtol=0, atol=1e-5)
    assert found.q_tokens is None


@pytest.mark.parametrize("cuts", [{}, {"top_p": 0.9, "top_k": 9, "min_p": 0.05}], ids=str)
@torch.inference_mode()
def test_the_reference_keeps_the_eager_q(model: DSparkModel, cuts: dict[str, float]) -> None:
    hidden, base, anchors, positions = states(model)
    rows = draw_rows(TEMPERATURES, rounds=[-1, 4, -1, 0, 9], **cuts)  # type: ignore[arg-type]
    pick = MixedPick(sampling_of(rows), drawn_at(positions, GAMMA), base.shape[-1], SparseDraft(width=12))
    tokens, confidence = eager_blocks(model, hidden, base, anchors, pick)
    found = draw_blocks(hidden, base, anchors, positions, model_head(model), rows, width=12)
    assert torch.equal(found.tokens, tokens)
    torch.testing.assert_close(found.confidence, confidence, rtol=0, atol=1e-5)
    assert found.q_tokens is not None
    assert found.q_probs is not None
    under = rows.rounds >= 0
    assert torch.equal(found.q_tokens[under], pick.q.tokens)
    torch.testing.assert_close(found.q_probs[under], pick.q.probs, rtol=1e-5, atol=1e-7)
    assert not found.q_probs[~under].any()


def test_keys_are_the_same_without_waiting_for_a_device() -> None:
    generator = torch.Generator().manual_seed(0)
    counters = [torch.randint(-(1 << 62), 1 << 62, (999,), generator=generator) for _ in range(4)]
    counters[0][0], counters[1][1] = -(1 << 63), (1 << 63) - 1
    for few in (counters[:1], counters[:3], counters):
        assert torch.equal(torch_row_keys(*few), row_keys(*few))


def inputs(vocab: int = 33, count: int = 2, gamma: int = 2) -> tuple[dict[str, object], DrawRows]:
    rows = draw_rows([0.5] * count)
    return {
        "hidden": torch.randn(count, gamma, 8, device=DEVICE),
        "base": torch.randn(count, gamma, vocab, device=DEVICE),
        "anchors": torch.zeros(count, dtype=torch.int64, device=DEVICE),
        "positions": torch.zeros(count, dtype=torch.int64, device=DEVICE),
        "head": head_of(vocab, 8, 4),
    }, rows


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("base", {"base": torch.zeros(2, 2, 33, dtype=torch.float64)}),
        ("hidden", {"hidden": torch.zeros(2, 3, 8)}),
        ("anchors", {"anchors": torch.zeros(2, dtype=torch.int32)}),
        ("positions", {"positions": torch.zeros(3, dtype=torch.int64)}),
        ("head.w2", {"head": replace(head_of(33, 8, 4), w2=None)}),
        ("head.w1", {"head": head_of(34, 8, 4)}),
        ("head.confidence", {"head": head_of(33, 9, 4)}),
        ("width", {"width": 129}),
    ],
)
def test_what_it_refuses(argument: str, change: dict[str, object]) -> None:
    arguments, rows = inputs()
    moved = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in change.items()}
    with pytest.raises(UnsupportedArgument, match=f"argument {argument} "):
        draw_blocks(**(arguments | moved), rows=rows)  # type: ignore[arg-type]


def test_it_refuses_rows_that_contradict_each_other() -> None:
    arguments, rows = inputs()
    with pytest.raises(UnsupportedArgument, match=r"argument rows\.top_k "):
        draw_blocks(**arguments, rows=replace(rows, top_k=rows.top_k.int()))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedArgument, match="argument width is 0"):
        draw_blocks(**arguments, rows=replace(rows, rejects=True))  # type: ignore[arg-type]
