"""The verification kernels against the reference: on a GPU where there is one, else through Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import outrider_kernels.verification as op
from outrider_kernels.counter_noise import row_keys, uniform
from outrider_kernels.dispatch import UnsupportedArgument
from outrider_kernels.triton_parts.leaders import upper_bits
from outrider_kernels.verification import Drafted, Verified, reference
from outrider_kernels.verification import triton as kernels
from support.kernels import DEVICE, DTYPES
from support.verification import Batch, Hand, batch, moved, shape_of, unequal

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, of infinities that are meant

COUPLED = [Hand(4), Hand(0, temperature=0.7), None, Hand(2, temperature=0.0)]
CUT = [Hand(3, top_p=0.9), Hand(1, top_k=5), Hand(2, 1.3, 0.7, 20, 0.05), Hand(0, min_p=0.2)]
REJECTING = [
    Hand(4, rejects=True),
    Hand(1, 0.8, top_p=0.8, rejects=True),
    Hand(0, rejects=True),
    None,
    Hand(2, 0.0, rejects=True),
]


def _compare(b: Batch) -> Verified:
    """The kernels' outcome, on the CPU, after comparing all of it with the reference's."""
    wanted = reference.verify(b.logits, b.rows, b.drafted, b.query_start, **b.flags)
    arguments = moved(b.logits), moved(b.rows), moved(b.drafted), moved(b.query_start)
    found = kernels.verify(*arguments, **b.flags)
    found = Verified(*(getattr(found, name).cpu() for name in ("accepted", "last", "chosen", "logprobs")))
    if unequal(b, found.chosen, wanted.chosen) == 0:
        assert torch.equal(found.accepted, wanted.accepted)
        assert torch.equal(found.last, wanted.last)
    same = found.chosen == wanted.chosen
    # log₂ of a sum within 3 ulp, twice rounded differences of exponents up to 2·max|l|·log₂e
    size = float(b.logits.nan_to_num(0.0).float().abs().amax()) if b.logits.numel() else 0.0
    bound = 2.0**-24 * (8 + 6 * size)
    torch.testing.assert_close(found.logprobs[same], wanted.logprobs[same], rtol=0, atol=bound)
    return found


@pytest.mark.parametrize("vocab", [1, 63, 1000, 4100])
def test_sizes(vocab: int) -> None:
    found = _compare(batch([*COUPLED, *CUT, *REJECTING], vocab, seed=vocab, padding=2))
    assert found.accepted[2] == 0
    assert found.last[2] == -1
    assert found.chosen[-2:].tolist() == [-1, -1]
    assert found.logprobs[-2:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_whose_logits_tie(dtype: torch.dtype) -> None:
    b = batch([*COUPLED, *CUT, *REJECTING], 1003, seed=5, dtype=dtype, spread=1.0)
    _compare(replace(b, logits=(b.logits * 2).round() / 2))


def test_greedy_batches_and_the_longest_draft() -> None:
    found = _compare(batch([Hand(16, temperature=0.0), Hand(0, temperature=0.0), None], 63, seed=2, padding=1))
    assert found.accepted[0] > 0


def test_no_rows_and_no_requests() -> None:
    found = _compare(batch([None, None], 7))
    assert found.accepted.tolist() == [0, 0]
    assert found.last.tolist() == [-1, -1]
    assert len(_compare(batch([], 7)).accepted) == 0


def test_masked_logits_are_never_chosen() -> None:
    b = batch([*COUPLED, *CUT, *REJECTING], 300, seed=9)
    logits = b.logits.clone()
    logits[:, torch.arange(300) % 7 != 3] = -torch.inf
    tokens = torch.where(b.drafted.tokens >= 0, b.drafted.tokens // 7 * 7 + 3, -1).clamp(max=297)
    found = _compare(replace(b, logits=logits, drafted=replace(b.drafted, tokens=tokens)))
    assert all(token % 7 == 3 for token in found.last.tolist() if token >= 0)


def test_cuts_that_hold_more_than_is_copied_together() -> None:
    hands = [Hand(0, 50.0, top_p=0.95), Hand(0, 50.0, top_k=5000), Hand(0, 50.0, 0.9, 6000), Hand(0, 9.0, 0.99, 0, 0.4)]
    _compare(batch(hands, 8200, seed=4))


@pytest.mark.parametrize(("dtype", "vocab"), [(torch.float32, 200), (torch.bfloat16, 200), (torch.bfloat16, 5001)])
def test_what_a_cut_keeps(dtype: torch.dtype, vocab: int) -> None:
    shapes = [(0.3, 0, 0.0), (0.9, 0, 0.0), (0.999, 0, 0.0), (1.0, 1, 0.0), (1.0, 60, 0.0), (1.0, 0, 0.1)]
    shapes += [(0.8, 50, 0.0), (0.95, 20, 0.05), (1.0, 40, 0.02), (0.7, 0, 0.001), (0.5, 199, 0.9)]
    b = batch([Hand(0, 1.0 + k / 9, *shape) for k, shape in enumerate(shapes)], vocab, seed=12, dtype=dtype)
    rows = moved(b.rows)
    passes = kernels.Passes(moved(b.logits), rows, Drafted(rows.seeds), False, True, True, False)
    least, mass = passes.cut_at.cpu().double().T
    logits, tokens = b.logits.double(), torch.arange(vocab)
    equal = logits == least[:, None]
    kept = (logits > least[:, None]) | (equal & (tokens <= passes.cut_token.cpu()[:, None]))
    assert torch.equal(kept, reference.token_probs(b.logits, *shape_of(b.rows)) > 0)
    exponents = (logits - logits.amax(dim=-1, keepdim=True)) / b.rows.temperature[:, None]
    torch.testing.assert_close(mass, (exponents.exp() * kept).sum(dim=-1), rtol=1e-5, atol=0)


def test_residuals_of_drafts_that_resemble_the_target() -> None:
    found = _compare(batch([Hand(1, rejects=True)] * 24, 40, seed=13, width=30, spread=1.0))
    assert 4 < found.accepted.sum() < 20


@pytest.mark.parametrize("top_k", [1, 2, 7])
def test_ties_at_the_cut_go_to_lower_tokens(top_k: int) -> None:
    b = batch([Hand(0, top_k=top_k)] * 12, 70, seed=top_k)
    logits = torch.zeros(12, 70)
    logits[:, 40:45] = 1.0
    found = _compare(replace(b, logits=logits))
    kept = [*range(40, 45), 0, 1][:top_k]
    assert set(found.last.tolist()) <= set(kept)


def test_what_is_left_of_equal_distributions_is_drawn_from_p() -> None:
    b = batch([Hand(1, rejects=True)] * 4, 8, seed=3, width=8)
    q = torch.softmax(torch.zeros(8, 8), dim=-1)
    q[1::2] = 0.0
    tokens = torch.tensor([-1] * 8)
    places = torch.arange(8).expand(8, 8).contiguous()
    q = q * 2  # more than p everywhere: nothing is left
    drafted = replace(b.drafted, tokens=tokens, q_tokens=places, q_probs=q)
    _compare(replace(b, logits=torch.zeros(8, 8), drafted=drafted))


def test_choose() -> None:
    b = batch([*COUPLED, *CUT], 1000, seed=8)
    rows = b.rows
    arguments = (*shape_of(rows), rows.seeds, rows.choices, rows.positions)
    wanted = reference.choose(b.logits, *arguments, random=True, cuts=True)
    found = kernels.choose(moved(b.logits), *(moved(x) for x in arguments), random=True, cuts=True)
    unequal(b, found.cpu(), wanted)
    dispatched = op.choose(moved(b.logits), *(moved(x) for x in arguments), random=True, cuts=True)
    unequal(b, dispatched.cpu(), wanted)
    greedy = kernels.choose(moved(b.logits), *(moved(x) for x in arguments), random=False, cuts=False)
    assert torch.equal(greedy.cpu(), b.logits.argmax(dim=-1))


@pytest.fixture
def whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read in one part, as in large batches: all tiles after the first have a leader to hold against."""
    monkeypatch.setattr(kernels, "_PROGRAMS", 1)


@pytest.mark.usefixtures("whole_rows")
@pytest.mark.parametrize(("dtype", "vocab"), [(torch.float32, 12_000), (torch.bfloat16, 20_001)])
def test_rows_of_many_tiles(dtype: torch.dtype, vocab: int) -> None:
    coupled = [Hand(0, temperature=heat) for heat in (1.0, 1.0, 1.0, 3.0, 3.0, 0.3)]
    again = [Hand(0, top_p=0.9), Hand(0, 2.0, top_k=300), Hand(0, rejects=True), Hand(2, 2.0, rejects=True)]
    _compare(batch([*coupled, *again, Hand(0, 0.0)], vocab, seed=6, dtype=dtype, spread=1.5, width=40))


@pytest.mark.usefixtures("whole_rows")
def test_the_leader_is_the_reference_whatever_the_order_of_logits() -> None:
    """Rising logits make every tile lead anew; falling ones leave all later tiles undrawn; equal ones tie."""
    b = batch([Hand(0)] * 3 + [Hand(0, 0.0)] * 3, 9000, seed=11)
    rising = torch.linspace(-40, 0, 9000)
    rows = torch.stack([rising, rising.flip(0), rising * 0])
    found = _compare(replace(b, logits=rows.repeat(2, 1)))
    assert found.last[3:].tolist() == [8999, 0, 0]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    hands=st.lists(
        st.none()
        | st.builds(
            Hand,
            st.integers(0, 3),
            st.sampled_from([0.0, 1e-5, 0.5, 1.0, 2.0]),
            st.sampled_from([0.0, 0.3, 0.95, 1.0]),
            st.sampled_from([0, 1, 4, 1000]),
            st.sampled_from([0.0, 0.1, 1.0]),
            st.booleans(),
        ),
        max_size=3,
    ),
    vocab=st.integers(1, 70),
    padding=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_ragged_batches(hands: list[Hand | None], vocab: int, padding: int, seed: int) -> None:
    _compare(batch(hands, vocab, padding=padding, seed=seed))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device: graphs are CUDA's")
def test_a_graph_replays_it_on_other_logits() -> None:
    b, other = (batch([*COUPLED, *CUT, *REJECTING], 5000, seed=seed) for seed in (20, 21))
    logits, rows, drafted, starts = moved(b.logits), moved(b.rows), moved(b.drafted), moved(b.query_start)
    kernels.verify(logits, rows, drafted, starts, **b.flags)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = kernels.verify(logits, rows, drafted, starts, **b.flags)
    logits.copy_(moved(other.logits))
    graph.replay()
    launched = kernels.verify(logits, rows, drafted, starts, **b.flags)
    assert torch.equal(replayed.chosen, launched.chosen)
    assert torch.equal(replayed.last, launched.last)
    assert torch.equal(replayed.logprobs, launched.logprobs)


def test_refusals() -> None:
    b = batch([Hand(1, rejects=True)], 9)
    flags = b.flags
    with pytest.raises(UnsupportedArgument, match="argument logits is float64"):
        op.verify(b.logits.double(), b.rows, b.drafted, b.query_start, **flags)
    with pytest.raises(UnsupportedArgument, match="argument slot is int64"):
        op.verify(b.logits, replace(b.rows, slot=b.rows.slot.long()), b.drafted, b.query_start, **flags)
    with pytest.raises(UnsupportedArgument, match="argument q_probs is missing"):
        op.verify(b.logits, b.rows, replace(b.drafted, q_probs=None), b.query_start, **flags)
    with pytest.raises(UnsupportedArgument, match="argument query_start is empty"):
        op.verify(b.logits, b.rows, b.drafted, b.query_start[:0], **flags)
    with pytest.raises(UnsupportedArgument, match=r"argument top_p has shape \[1\]"):
        op.verify(b.logits, replace(b.rows, top_p=b.rows.top_p[:1]), b.drafted, b.query_start, **flags)


def test_the_bits_that_are_compared_are_the_noise() -> None:
    seeds = torch.tensor([0, 1, -1, 2**62])
    keys = row_keys(seeds, seeds, seeds)
    found = upper_bits(keys.to(DEVICE), 5000).cpu()
    beyond = uniform(keys, 5000).double() * 2.0**32 - found * 2.0**16
    assert bool(((beyond > -129) & (beyond < 2**16 + 129)).all())  # fp32 rounds the integers to multiples of 256
