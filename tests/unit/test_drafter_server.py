"""The draft server against a reference that drafts one sequence at a time from scratch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from outrider.drafter.config import DSparkConfig
from outrider.drafter.model import DSparkModel
from outrider.drafter.projection import projection_fingerprint
from outrider.drafter.server import DraftServer
from outrider.errors import DrafterMismatch, LinkError
from outrider.link import (
    DraftBlock,
    DraftRound,
    InProcessLink,
    TargetHello,
    ZmqDraftLink,
    ZmqDraftService,
)
from outrider.speculation import RowSampling, choose

VOCAB, HIDDEN, GAMMA, MASK, CONTEXT = 97, 32, 5, 1, 640
TARGET = b"target"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def tiny_config(**changes: object) -> DSparkConfig:
    values: dict[str, object] = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "num_target_layers": 4,
        "block_size": GAMMA,
        "mask_token_id": MASK,
        "target_layer_ids": (0, 2),
        "markov_rank": 8,
    }
    return DSparkConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def model() -> DSparkModel:
    torch.manual_seed(11)
    return DSparkModel(tiny_config()).eval().requires_grad_(False)


@pytest.fixture
def server(model: DSparkModel) -> DraftServer:
    return DraftServer(model, "tiny")


@dataclass(frozen=True)
class Sample:
    """One sequence: its context rows C [s, d], its anchor at position s, and how it samples."""

    key: int
    rows: Tensor
    anchor: int = 4
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 3
    choice: int = 0


def sequence(key: int, length: int, **sampling: float) -> Sample:
    rows = torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(key))
    return Sample(key, rows, 2 + key % (VOCAB - 2), **sampling)  # type: ignore[arg-type]


@dataclass
class Target:
    """Builds rounds: what to append and for whom to propose."""

    server: DraftServer
    client: bytes = TARGET
    rounds: int = 0

    def round(
        self,
        appends: Sequence[tuple[int, int, Tensor]] = (),
        proposals: Sequence[Sample] = (),
        frees: tuple[int, ...] = (),
    ) -> DraftRound:
        self.rounds += 1
        return DraftRound(
            self.server.welcome.epoch,
            self.rounds,
            frees,
            torch.tensor([key for key, _, _ in appends], dtype=torch.int64),
            torch.tensor([start for _, start, _ in appends], dtype=torch.int64),
            torch.tensor([len(rows) for _, _, rows in appends], dtype=torch.int64),
            torch.cat([rows for _, _, rows in appends]) if appends else torch.empty(0, HIDDEN),
            torch.zeros(sum(len(rows) for _, _, rows in appends), dtype=torch.int64),
            torch.tensor([s.key for s in proposals], dtype=torch.int64),
            torch.tensor([s.anchor for s in proposals], dtype=torch.int64),
            torch.tensor([len(s.rows) for s in proposals], dtype=torch.int64),
            torch.tensor([s.temperature for s in proposals]),
            torch.tensor([s.top_p for s in proposals]),
            torch.tensor([s.seed for s in proposals], dtype=torch.int64),
            torch.tensor([s.choice for s in proposals], dtype=torch.int64),
        )

    def say(self, *args: object, **kwargs: object) -> DraftBlock:
        return self.server.handle(self.client, self.round(*args, **kwargs))  # type: ignore[arg-type]

    def fill(self, *sequences: Sample) -> DraftBlock:
        """Append every sequence's whole context and propose for all of them."""
        return self.say([(s.key, 0, s.rows) for s in sequences if len(s.rows)], sequences)


@torch.inference_mode()
def reference(model: DSparkModel, one: Sample) -> tuple[list[int], Tensor]:
    """arXiv 2607.05147, steps 2 to 5, for one sequence, slot by slot, without a server."""
    s = len(one.rows)
    keys, values = model.context_kv(one.rows, torch.arange(s))
    ids = torch.tensor([[one.anchor] + [MASK] * (GAMMA - 1)])
    positions = torch.arange(s, s + GAMMA)[None]
    hidden = model.backbone(ids, positions, keys[:, None], values[:, None], torch.tensor([s]))
    sampling = RowSampling.of([one.temperature], [one.top_p], [one.seed], [one.choice])
    previous, state, tokens, confidences = torch.tensor([one.anchor]), None, [], []
    for k in range(1, GAMMA + 1):
        bias, embedding, state = model.head_step(hidden[:, k - 1], previous, state)
        logits = model.base_logits(hidden[:, k - 1])
        logits = logits if bias is None else logits + bias
        if model.confidence_head is not None:
            confidences.append(model.confidence_logit(hidden[:, k - 1], embedding))
        previous = choose(logits, sampling, torch.tensor([s + k]))
        if model.confidence_head is None:
            chance = float(torch.softmax(logits, -1)[0, previous])
            confidences.append(torch.tensor([math.log(chance / (1 - chance))]))
        tokens.append(int(previous))
    return tokens, torch.cat(confidences)


def assert_drafts(model: DSparkModel, block: DraftBlock, proposals: Sequence[Sample]) -> None:
    assert block.missing == ()
    for row, one in enumerate(proposals):
        tokens, confidences = reference(model, one)
        assert block.tokens[row].tolist() == tokens
        torch.testing.assert_close(block.confidence_logits[row], confidences, **TOLERANCE)


MIXED = [
    sequence(1, 30),
    sequence(2, 1, temperature=1.0),
    sequence(3, 0, temperature=0.7, choice=1),
    sequence(4, 130, temperature=1.3, top_p=0.6, seed=-9),
    sequence(5, 64, seed=8),
]


def test_blocks_of_a_mixed_batch_are_those_of_each_sequence_alone(model: DSparkModel, server: DraftServer) -> None:
    assert_drafts(model, Target(server).fill(*MIXED), MIXED)


def test_sampled_blocks_depend_on_seed_and_choice(server: DraftServer) -> None:
    base = sequence(1, 20, temperature=2.0)
    others = [replace(base, key=2), replace(base, key=3, seed=4), replace(base, key=4, choice=1)]
    tokens = Target(server).fill(base, *others).tokens.tolist()
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]
    assert tokens[0] != tokens[3]


@pytest.mark.parametrize("order", [[0, 3, 1, 4], [4, 0, 2], [2, 4], [3, 1, 0, 4, 2], [1]])
def test_rows_come_back_in_the_order_asked(model: DSparkModel, server: DraftServer, order: list[int]) -> None:
    target = Target(server)
    target.fill(*MIXED)
    asked = [MIXED[index] for index in order]
    assert_drafts(model, target.say((), asked), asked)


def test_freed_slots_are_reused_by_sequences_of_other_lengths(model: DSparkModel, server: DraftServer) -> None:
    target = Target(server)
    target.fill(*MIXED)
    assert server.held_sequences == 5
    new = [sequence(11, 7), sequence(12, 200)]
    block = target.say([(s.key, 0, s.rows) for s in new], [*new, MIXED[0]], frees=(4, 2, 999))
    assert server.held_sequences == 5
    assert_drafts(model, block, [*new, MIXED[0]])


def test_pools_grow_in_slots_and_in_tokens(model: DSparkModel, server: DraftServer) -> None:
    target = Target(server)
    many = [sequence(key, key) for key in range(1, 10)]
    assert_drafts(model, target.fill(*many), many)
    long = sequence(50, 600)
    assert_drafts(model, target.fill(long), [long])
    assert_drafts(model, target.say((), many), many)


@pytest.mark.parametrize("chunks", [[90], [1] * 90, [64, 25, 1], [7, 0, 83]])
def test_context_does_not_depend_on_how_appends_are_chunked(
    model: DSparkModel, server: DraftServer, chunks: list[int]
) -> None:
    target, one, start = Target(server), sequence(1, 90, temperature=0.8), 0
    target.fill(sequence(2, 40))
    for chunk in chunks:
        target.say([(1, start, one.rows[start : start + chunk])] if chunk else [])
        start += chunk
    assert_drafts(model, target.say((), [one]), [one])


def test_contexts_that_are_not_s_rows_are_missing_and_refilled(model: DSparkModel, server: DraftServer) -> None:
    target = Target(server)
    one, other = sequence(1, 20), sequence(2, 30)
    unknown = target.say((), [one])
    assert unknown.missing == (1,)
    assert unknown.tokens.tolist() == [[0] * GAMMA]
    assert bool(unknown.confidence_logits.isneginf().all())
    target.fill(other)
    short = target.say([(1, 0, one.rows[:19])], [other, one])
    assert short.missing == (1,)
    assert short.tokens[0].tolist() == reference(model, other)[0]
    assert target.say((), [replace(one, rows=one.rows[:19])]).missing == (1,)  # dropped, not kept at 19
    assert_drafts(model, target.fill(one), [one])


@pytest.mark.parametrize("start", [19, 21])
def test_a_gap_or_an_overlap_drops_the_context(model: DSparkModel, server: DraftServer, start: int) -> None:
    target = Target(server)
    one, other = sequence(1, 21), sequence(2, 9)
    target.say([(1, 0, one.rows[:20])])
    block = target.say([(1, start, one.rows[20:]), (2, 0, other.rows)], [one, other])
    assert block.missing == (1,)
    assert block.tokens[1].tolist() == reference(model, other)[0]
    assert server.held_sequences == 1
    assert_drafts(model, target.fill(one), [one])


def test_a_start_of_zero_replaces(model: DSparkModel, server: DraftServer) -> None:
    target = Target(server)
    target.fill(sequence(1, 50))
    other = replace(sequence(7, 12), key=1)
    assert_drafts(model, target.fill(other), [other])


def test_what_one_sequence_leaves_behind_never_reaches_another(model: DSparkModel, server: DraftServer) -> None:
    poisoner, victim = Target(server, b"poisoner"), Target(server)
    poison = Sample(1, torch.full((200, HIDDEN), torch.nan), temperature=1.0)
    long, short = sequence(2, 150), sequence(3, 4)
    block = poisoner.fill(poison, long)
    assert bool((block.tokens[0] < VOCAB).all())
    assert bool(block.confidence_logits[0].isneginf().all())
    assert block.tokens[1].tolist() == reference(model, long)[0]
    server.forget_client(b"poisoner")
    assert server.held_sequences == 0
    assert_drafts(model, victim.fill(short, long), [short, long])


def test_clients_with_equal_keys_do_not_meet(model: DSparkModel, server: DraftServer) -> None:
    first, second = Target(server, b"1"), Target(server, b"2")
    mine, theirs = sequence(1, 10), replace(sequence(2, 25), key=1)
    first.fill(mine)
    second.fill(theirs)
    assert_drafts(model, first.say((), [mine]), [mine])
    assert_drafts(model, second.say(frees=(1,), proposals=()), [])
    assert_drafts(model, first.say((), [mine]), [mine])


def test_the_last_position_of_the_context_can_be_drafted_for(server: DraftServer) -> None:
    assert Target(server).fill(sequence(1, CONTEXT - 1)).missing == ()


def test_malformed_rounds_change_nothing(model: DSparkModel, server: DraftServer) -> None:
    target, one = Target(server), sequence(1, 10)
    target.fill(one)
    good = target.round([(1, 10, one.rows)], [one], frees=(1,))
    for bad in (
        replace(good, epoch=good.epoch ^ 1),
        replace(good, anchors=good.anchors + VOCAB),
        replace(good, rows=good.rows[:, 1:]),
        replace(good, append_tokens=good.append_tokens + VOCAB),
        replace(good, append_starts=good.append_starts + CONTEXT),
    ):
        with pytest.raises(LinkError):
            server.handle(TARGET, bad)
    assert_drafts(model, target.say((), [one]), [one])


def hello_for(model: DSparkModel) -> TargetHello:
    fingerprint = projection_fingerprint(model.fc.weight, model.hidden_norm.weight)
    return TargetHello("target", VOCAB, HIDDEN, fingerprint)


@pytest.mark.parametrize(
    ("field_name", "value", "said"),
    [
        ("vocab_size", VOCAB + 1, "vocabulary size"),
        ("hidden_size", HIDDEN * 2, "hidden size"),
        ("projection_fingerprint", "0" * 64, "projection fingerprint"),
    ],
)
def test_targets_of_another_make_are_refused(
    model: DSparkModel, server: DraftServer, field_name: str, value: object, said: str
) -> None:
    assert server.hello(hello_for(model)).block_size == GAMMA
    with pytest.raises(DrafterMismatch, match=said):
        server.hello(replace(hello_for(model), **{field_name: value}))  # type: ignore[arg-type]


def test_incarnations_differ_in_epoch(model: DSparkModel) -> None:
    assert DraftServer(model, "a").welcome.epoch != DraftServer(model, "a").welcome.epoch


@pytest.mark.parametrize(
    "changes",
    [
        {"markov_head_type": "gated"},
        {"markov_head_type": "rnn"},
        {"markov_head_type": "rnn", "confidence_head_with_markov": False},
        {"enable_confidence_head": False},
        {"markov_rank": 0, "confidence_head_with_markov": False},
        {"markov_rank": 0, "enable_confidence_head": False},
    ],
)
def test_drafters_of_every_head_are_served(changes: dict[str, object]) -> None:
    torch.manual_seed(5)
    made = DSparkModel(tiny_config(**changes)).eval().requires_grad_(False)
    target = Target(DraftServer(made, "other"))
    assert_drafts(made, target.fill(*MIXED), MIXED)
    assert_drafts(made, target.say((), MIXED[::-1]), MIXED[::-1])


@pytest.fixture
def zmq_link(model: DSparkModel) -> Iterator[tuple[DraftServer, ZmqDraftLink]]:
    server = DraftServer(model, "served")
    with TemporaryDirectory() as directory:
        service = ZmqDraftService(server, f"ipc://{directory}/draft.sock")
        service.start()
        link = ZmqDraftLink.connect(f"ipc://{directory}/draft.sock", hello_for(model), 10.0)
        yield server, link
        link.close()
        service.stop()


def test_both_links_give_the_same_blocks(
    model: DSparkModel, server: DraftServer, zmq_link: tuple[DraftServer, ZmqDraftLink]
) -> None:
    near, (far_server, far) = InProcessLink(server, hello_for(model)), zmq_link
    grown = [replace(s, rows=torch.cat((s.rows, s.rows[:3]))) for s in MIXED]
    script = [
        ([(s.key, 0, s.rows) for s in MIXED if len(s.rows)], MIXED, ()),
        ([(s.key, len(s.rows), s.rows[:3]) for s in MIXED if len(s.rows)], grown, ()),
        ([], [grown[4], sequence(77, 3), grown[0]], (2, 3)),
        ([], [], (1, 4, 5)),
    ]
    near_target, far_target = Target(server), Target(far_server)
    for appends, proposals, frees in script:
        near.send(near_target.round(appends, proposals, frees))
        far.send(far_target.round(appends, proposals, frees))
        ours, theirs = near.receive(10.0), far.receive(10.0)
        assert torch.equal(ours.tokens, theirs.tokens)
        torch.testing.assert_close(ours.confidence_logits, theirs.confidence_logits, **TOLERANCE)
        assert ours.missing == theirs.missing
    assert server.held_sequences == far_server.held_sequences == 0
