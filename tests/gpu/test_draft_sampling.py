"""Block drawing: the reference draws what the eager drafter draws, and the kernel what the reference draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from outrider.drafter.blocks import draw_blocks as eager_blocks
from outrider.drafter.config import DSparkConfig
from outrider.drafter.model import DSparkModel
from outrider.drafter.picks import CoupledPick, MixedPick, drawn_at
from outrider.speculation import RowSampling, SparseDraft
from outrider_kernels.counter_noise import exponential, row_keys
from outrider_kernels.counter_noise.reference import torch_row_keys
from outrider_kernels.dispatch import UnsupportedArgument
from outrider_kernels.draft_sampling import DrawRows, Sampled, SequentialHead, draw_blocks
from outrider_kernels.draft_sampling import reference as plain
from support.drafting import draw_rows, head_of
from support.kernels import DEVICE, DTYPES, assert_best, bound
from support.tiny import TinyPair

TEMPERATURES = [0.0, 1.0, 0.7, 0.0, 1.3]
RANK = 16
POSITIONS = [0, 62, 1000, 5, 1 << 40]
GAMMA = 7


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Whatever is allocated without a value is NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def kernels() -> Any:
    """Imported late: where there is no GPU, the interpreter must have been asked for before."""
    from outrider_kernels.draft_sampling import triton

    return triton


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


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def drawn_from(
    count: int, gamma: int, vocab: int, *, dtype: torch.dtype = torch.float32, hidden: int = 40, seed: int = 0
) -> Inputs:
    """Hidden states, base logits, anchors and their positions."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, gamma, hidden, generator=generator).to(DEVICE, dtype),
        (3 * torch.randn(count, gamma, vocab, generator=generator)).to(DEVICE, dtype),
        torch.randint(vocab, (count,), generator=generator).to(DEVICE),
        torch.randint(1 << 40, (count,), generator=generator).to(DEVICE),
    )


def assert_drawn(
    found: Sampled, given: Inputs, head: SequentialHead, rows: DrawRows, *, width: int = 0, nudge: int = 0
) -> None:
    """Every slot's token is the reference's choice after the kernel's own tokens, up to ties of rounding.

    Logits are sums of RANK products of magnitude 2, kept in fp32 whatever the inputs are; a score adds three roundings
    of numbers below 64. `nudge` shifts the positions that key the noise, which must show.
    """
    hidden, base, anchors, positions = given
    gamma, vocab = base.shape[1:]
    previous = torch.cat((anchors[:, None], found.tokens[:, :-1]), 1)
    temperature = torch.where(rows.temperature > 0, rows.temperature, 1.0)
    slack = bound(torch.float32, RANK, 2.0) / temperature + 64 * 2.0**-22 * (1 + 1 / temperature)
    assert bool(((found.tokens >= 0) & (found.tokens < vocab)).all())
    for slot in range(gamma):
        logits = plain.slot_logits(base[:, slot], previous[:, slot], head)
        scores = logits / temperature[:, None]
        if rows.random:
            noise = exponential(plain.coupled_keys(rows, positions + slot + 1 + nudge), vocab)
            raced = scores - noise.log()
            if rows.cuts:
                best, probs = plain.best_tokens(logits, rows, width)
                allowed = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, plain.cut(probs, rows) > 0)
                has_cut = (rows.top_p < 1) | (rows.top_k > 0) | (rows.min_p > 0)
                raced = raced.masked_fill(~allowed & has_cut[:, None], -torch.inf)
            scores = torch.where(rows.temperature[:, None] > 0, raced, scores)
        coupled = rows.rounds < 0
        assert_best(found.tokens[coupled, slot], scores[coupled], slack[coupled])
        if rows.rejects:
            assert_rejecting(found, slot, logits, rows, width)
    expected = plain._confidence(hidden, previous, head)
    torch.testing.assert_close(found.confidence, expected, rtol=0, atol=bound(torch.float32, 64, 4.0))


def assert_rejecting(found: Sampled, slot: int, logits: Tensor, rows: DrawRows, width: int) -> None:
    """q is the reference's up to rounding, and the token is what the noise draws from the q that was told."""
    assert found.q_tokens is not None
    assert found.q_probs is not None
    tokens, probs = plain.best_tokens(logits, rows, width)
    probs = plain.cut(probs, rows) if rows.cuts else probs
    probs = probs / probs.sum(-1, keepdim=True)
    under = rows.rounds >= 0
    q_tokens, q_probs = found.q_tokens[under, slot], found.q_probs[under, slot]
    torch.testing.assert_close(q_probs, probs[under], rtol=1e-4, atol=1e-6)
    logits_found = logits[under].gather(1, q_tokens)
    slack = bound(torch.float32, RANK, 2.0)
    torch.testing.assert_close(logits_found, logits[under].gather(1, tokens[under]), rtol=0, atol=2 * slack)
    assert all(len(set(row)) == len(row) for row in q_tokens.tolist()), "a token twice"
    noise = exponential(plain.stream_keys(rows, slot), width)[under]
    drawn = q_tokens.gather(1, (noise / q_probs).argmin(-1, keepdim=True)).squeeze(1)
    assert torch.equal(found.tokens[under, slot], drawn)
    assert not found.q_probs[~under].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "gamma", "vocab"), [(1, 7, 63), (5, 2, 1000), (63, 1, 100), (70, 2, 97)])
def test_the_kernel_races_as_the_reference(count: int, gamma: int, vocab: int, dtype: torch.dtype) -> None:
    given, head = drawn_from(count, gamma, vocab, dtype=dtype), head_of(vocab, 40, RANK, dtype=dtype)
    rows = draw_rows([TEMPERATURES[r % 5] for r in range(count)])
    assert_drawn(kernels().draw_blocks(*given, head, rows), given, head, rows)


def test_rough_noise_stays_within_half_of_the_slack() -> None:
    """Half a million draws have some at both ends, where the logarithm is steepest."""
    from outrider_kernels.triton_parts import race

    errors = race.rough_errors(torch.arange(1, 9, device=DEVICE), 1 << 16)
    assert errors.abs().max() < race.SLACK / 2


@pytest.mark.parametrize("slack", [0.0, 1e9])
def test_tiles_in_doubt_race_again_with_the_same_winners(slack: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tiles in doubt, or none: nothing comes that close in 400 scores."""
    given, head, rows = drawn_from(5, 2, 200), head_of(200, 40, RANK), draw_rows(TEMPERATURES)
    expected = kernels().draw_blocks(*given, head, rows)
    monkeypatch.setattr(kernels(), "SLACK", slack)
    assert torch.equal(kernels().draw_blocks(*given, head, rows).tokens, expected.tokens)


def test_noise_of_other_positions_would_show() -> None:
    given, head, rows = drawn_from(5, 2, 100), head_of(100, 40, RANK), draw_rows([1.0] * 5)
    found = kernels().draw_blocks(*given, head, rows)
    with pytest.raises(AssertionError, match="below the best"):
        assert_drawn(found, given, head, rows, nudge=1)


def test_the_kernel_equals_the_reference_where_nothing_ties() -> None:
    given, head, rows = drawn_from(5, 7, 97), head_of(97, 40, RANK), draw_rows(TEMPERATURES)
    found = kernels().draw_blocks(*given, head, rows)
    expected = plain.draw_blocks(*given, head, rows)
    assert torch.equal(found.tokens, expected.tokens)


@pytest.mark.parametrize("head", ["none", "of the hidden state", "one rank"])
def test_greedy_rows_and_other_heads(head: str) -> None:
    given, rows = drawn_from(3, 2, 130), draw_rows([0.0] * 3)
    heads = {
        "none": head_of(130, 40, 0),
        "of the hidden state": head_of(130, 40, RANK, markov=False),
        "one rank": replace(head_of(130, 40, 1), confidence_bias=0.25),
    }
    assert_drawn(kernels().draw_blocks(*given, heads[head], rows), given, heads[head], rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("cuts", "rounds", "vocab", "width"),
    [
        ({"top_p": [0.9, 1.0, 0.5, 0.9, 0.8], "top_k": [0, 5, 3, 0, 0]}, None, 300, 8),
        ({"min_p": 0.1}, [-1, 3, 0, -1, -1], 129, 12),
        ({}, [-1, 3, -1, -1, 9], 1000, 8),
        ({"top_p": 0.7, "top_k": 6}, [-1, 3, 0, -1, 9], 20, 20),
        ({}, [2, 3, -1, -1, -1], 7, 7),
        ({"top_p": 0.7}, [2, 3, 0, -1, 9], 40, 1),
    ],
    ids=str,
)
def test_the_kernel_draws_from_the_best_tokens(
    cuts: dict[str, Any], rounds: list[int] | None, vocab: int, width: int, dtype: torch.dtype
) -> None:
    given, head = drawn_from(5, 1, vocab, dtype=dtype), head_of(vocab, 40, RANK, dtype=dtype)
    rows = draw_rows(TEMPERATURES, rounds=rounds, **cuts)
    assert_drawn(kernels().draw_blocks(*given, head, rows, width=width), given, head, rows, width=width)


def test_ties_go_to_the_lowest_token() -> None:
    """All logits equal: greedy rows take token 0, and q is the first tokens in order."""
    hidden, base, anchors, positions = drawn_from(2, 2, 200)
    head, rows = head_of(200, 40, 0), draw_rows([0.0, 1.0], rounds=[-1, 4])
    base = torch.ones_like(base)
    found = kernels().draw_blocks(hidden, base, anchors, positions, head, rows, width=8)
    assert found.tokens[0].tolist() == [0, 0]
    assert found.q_tokens[1, 0].tolist() == list(range(8))
    base[0, :, 60], base[0, :, 190] = 2.0, 2.0
    assert kernels().draw_blocks(hidden, base, anchors, positions, head, rows, width=8).tokens[0].tolist() == [60, 60]


def test_no_rows() -> None:
    given, head, rows = drawn_from(0, 3, 50), head_of(50, 40, RANK), draw_rows([])
    assert kernels().draw_blocks(*given, head, rows).tokens.shape == (0, 3)


def test_masked_tokens_and_unfit_numbers_do_no_harm() -> None:
    """A row of nothing but −inf, and one of NaN, answer some token; the others do not notice."""
    hidden, base, anchors, positions = drawn_from(3, 1, 90)
    head, rows = head_of(90, 40, RANK), draw_rows([0.0, 1.0, 1.0])
    base[0], base[2] = -torch.inf, torch.nan
    hidden[2] = torch.nan
    found = kernels().draw_blocks(hidden, base, anchors, positions, head, rows)
    assert bool(((found.tokens >= 0) & (found.tokens < 90)).all())
    assert found.tokens[0].tolist() == [0]
    assert found.confidence[2].item() == -torch.inf
    assert_best(found.tokens[1:2, 0], _scores(base[1:2, 0], anchors[1:2], head, rows, positions), 1e-4)


def _scores(base: Tensor, anchors: Tensor, head: SequentialHead, rows: DrawRows, positions: Tensor) -> Tensor:
    """Race scores of row 1 at its first slot, temperature 1."""
    noise = exponential(plain.coupled_keys(rows, positions + 1), base.shape[-1])[1:2]
    return plain.slot_logits(base, anchors, head) - noise.log()


def pair_chances(given: Inputs, head: SequentialHead, temperature: float) -> Tensor:
    """Chances fp64 [V, V] of the first two tokens after row 0's anchor."""
    _, base, anchors, _ = given
    vocab = base.shape[-1]
    first = torch.softmax(plain.slot_logits(base[:1, 0], anchors[:1], head).double() / temperature, -1)
    every = torch.arange(vocab, device=DEVICE)
    second = torch.softmax(plain.slot_logits(base[:1, 1].expand(vocab, -1), every, head).double() / temperature, -1)
    return first.T * second


def test_pairs_of_tokens_are_distributed_as_the_softmax_says() -> None:
    """Seeds by the hundred, one context: the pairs drawn must fit; pairs drawn by one noise for both slots must not."""
    count, vocab = 1000, 5
    one, head = drawn_from(1, 2, vocab, dtype=torch.bfloat16), head_of(vocab, 40, RANK, dtype=torch.bfloat16)
    head = replace(head, w2=None if head.w2 is None else head.w2 / 8)  # so that no pair is too rare to be counted
    hidden, base, anchors, positions = one
    given = (hidden.repeat(count, 1, 1), base.repeat(count, 1, 1) / 6, anchors.repeat(count), positions.repeat(count))
    rows = draw_rows([0.8] * count, seeds=[r * 7919 for r in range(count)])
    found = kernels().draw_blocks(*given, head, rows).tokens
    chances = pair_chances(given, head, 0.8).flatten().cpu()

    noise = exponential(plain.coupled_keys(rows, given[3] + 1), vocab)
    stale: list[Tensor] = [given[2]]
    for slot in range(2):
        logits = plain.slot_logits(given[1][:, slot], stale[-1], head)
        stale.append((noise / torch.softmax(logits / 0.8, -1)).argmin(-1))

    def surprise(first: Tensor, second: Tensor) -> float:
        seen = torch.bincount(first * vocab + second, minlength=vocab**2).cpu()
        return float(chisquare(seen.numpy(), (chances * count).numpy()).pvalue)

    assert surprise(found[:, 0], found[:, 1]) > 1e-3
    assert surprise(stale[1], stale[2]) < 1e-6
