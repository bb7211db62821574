"""Drafting on a device through the kernels' references gives what the eager proposer gives, padding or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outrider.drafter.config import DSparkConfig
from outrider.drafter.device import DeviceDraft, draw_rows
from outrider.drafter.dspark import DSparkProposer
from outrider.drafter.model import DSparkModel
from outrider.drafter.server import DraftServer
from outrider.speculation import RowSampling, SparseDraft
from support.tiny import TinyPair

HEADS = {
    "vanilla": {},
    "no markov head": {"markov_rank": 0, "confidence_head_with_markov": False},
    "confidence of the hidden state alone": {"confidence_head_with_markov": False},
    "one token, one layer": {"block_size": 1, "num_hidden_layers": 1},
}
LENGTHS = [1, 63, 8, 150, 17]


def model_of(pair: TinyPair, **overrides: object) -> DSparkModel:
    config = DSparkConfig.load(pair.drafter).model_copy(update=overrides)
    torch.manual_seed(5)
    return DSparkModel(config).eval().requires_grad_(False)


def filled(proposer: DSparkProposer, lengths: list[int]) -> list[int]:
    """Slots with random contexts, stored in two rounds."""
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
    return slots


def greedy(count: int) -> RowSampling:
    return RowSampling.of([0.0] * count, [1.0] * count, [0] * count, [0] * count)


def proposers(model: DSparkModel, **options: object) -> tuple[DSparkProposer, DSparkProposer]:
    eager = DSparkProposer(model, compiled=False, **options)  # type: ignore[arg-type]
    return DSparkProposer(model, device_draft=True, **options), eager  # type: ignore[arg-type]


@pytest.mark.parametrize("cuts", [{"top_p": 1.0}, {"top_p": 0.8}, {"top_p": 0.9, "top_k": 5, "min_p": 0.02}], ids=str)
@pytest.mark.parametrize("heads", HEADS)
@torch.inference_mode()
def test_blocks_are_the_eager_ones(pair: TinyPair, heads: str, cuts: dict[str, float]) -> None:
    proposer, eager = proposers(model_of(pair, **HEADS[heads]))
    top_k, min_p = [int(cuts.get("top_k", 0))] * 5, [cuts.get("min_p", 0.0)] * 5
    temperature, seeds = [0.0, 1.0, 0.7, 0.0, 1.3], [3, 4, 5, 6, -7]
    sampling = RowSampling.of(temperature, [cuts["top_p"]] * 5, seeds, [0, 0, 1, 0, 2], top_k, min_p)
    asked = torch.arange(5), torch.tensor(LENGTHS), sampling
    found, expected = proposer.propose(filled(proposer, LENGTHS), *asked), eager.propose(filled(eager, LENGTHS), *asked)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_rejecting_rows_bring_the_eager_q(pair: TinyPair) -> None:
    proposer, eager = proposers(model_of(pair), sparse=SparseDraft(width=12))
    sampling = RowSampling.of([0.8, 1.0, 0.7, 0.0, 1.3], [0.9, 1.0, 0.8, 1.0, 0.95], range(3, 8), [0, 0, 1, 0, 2])
    rounds = torch.tensor([4, -1, 9, -1, 0])
    sampling = RowSampling(sampling.temperature, sampling.top_p, sampling.seeds, sampling.choices, rounds=rounds)
    asked = torch.arange(5), torch.tensor(LENGTHS), sampling
    found = proposer.propose_mixed(filled(proposer, LENGTHS), *asked)
    expected = eager.propose_mixed(filled(eager, LENGTHS), *asked)
    assert torch.equal(found[0][rounds >= 0], expected[0][rounds >= 0])
    torch.testing.assert_close(found[1][rounds >= 0], expected[1][rounds >= 0], rtol=1e-4, atol=1e-4)
    assert torch.equal(found[2].tokens, expected[2].tokens)
    torch.testing.assert_close(found[2].probs, expected[2].probs, rtol=1e-4, atol=1e-6)


@torch.inference_mode()
def test_padding_changes_nothing(pair: TinyPair) -> None:
    """Requests in slot −1 with senseless anchors and lengths, appended rows that are skipped, memory that is NaN."""
    proposer, _ = proposers(model_of(pair))
    slots = filled(proposer, LENGTHS)
    wanted = proposer.propose(slots, torch.arange(5), torch.tensor(LENGTHS), greedy(5))
    room = proposer.slot_tokens
    for plane in (proposer.keys, proposer.values):
        for slot in range(plane.shape[1]):
            plane[:, slot, LENGTHS[slot] if slot < 5 else 0 :] = float("nan")
    device = proposer.device
    assert device is not None
    skipped = torch.full((3, proposer.row_size), float("nan"))
    device.append(skipped, torch.tensor([-5, 0, 10**6]), torch.tensor([-1, -1, -1]))
    padded = greedy(7)

    def with_padding(values: list[int], filler: int) -> Tensor:
        return torch.tensor([filler, *values, filler])

    found = device.propose(
        with_padding(slots, -1), with_padding(LENGTHS, 10**6).int(), with_padding(list(range(5)), -1),
        with_padding(LENGTHS, -9), draw_rows(padded, torch.device("cpu")),
    )  # fmt: skip
    assert torch.equal(found.tokens[1:-1], wanted[0])
    torch.testing.assert_close(found.confidence[1:-1], wanted[1], rtol=1e-5, atol=1e-5)
    assert torch.isfinite(found.confidence).all()
    device.append(torch.ones(2, proposer.row_size), torch.tensor([0, 17]), torch.tensor([-1, slots[4] * room + 17]))
    assert torch.isfinite(proposer.keys[:, slots[4], :18]).all()
    assert proposer.keys[:, slots[4], 18:].isnan().all()


def test_growing_replaces_the_planes_and_tells(pair: TinyPair) -> None:
    proposer, _ = proposers(model_of(pair))
    slot, version, keys = proposer.acquire(), proposer.version, proposer.keys
    places = proposer.grow([(slot, 3)])
    assert places.tolist() == [slot * proposer.slot_tokens + offset for offset in range(3)]
    assert (proposer.version, proposer.keys.data_ptr()) == (version, keys.data_ptr())
    proposer.reserve(0, proposer.slot_tokens + 1)
    assert proposer.version != version
    assert proposer.keys.data_ptr() != keys.data_ptr()


def test_other_models_draft_eagerly(pair: TinyPair) -> None:
    gated = model_of(pair, markov_head_type="gated")
    assert not DeviceDraft.fits(gated)
    with pytest.raises(ValueError, match="vanilla"):
        DSparkProposer(gated, device_draft=True)
    assert DSparkProposer(gated).device is None
    assert DSparkProposer(model_of(pair)).device is None, "no GPU here asked for it"


def test_the_server_shows_its_proposer(pair: TinyPair) -> None:
    proposer = DSparkProposer(model_of(pair), device_draft=True)
    assert DraftServer(proposer, "d").proposer is proposer
