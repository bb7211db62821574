"""Baselines behind the draft link: prompt lookup and a plain drafting model, offline and under the real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from outrider.drafter.lookup import LookupProposer, lookup_blocks
from outrider.drafter.plain import PlainModel, PlainProposer, plain_blocks
from outrider.drafter.proposer import Proposer
from outrider.drafter.server import DraftServer
from outrider.errors import DrafterMismatch
from outrider.link import DraftRound, TargetHello
from outrider.speculation import RowSampling, choose
from outrider.types import GenerationRequest
from support.engines import open_tiny, prompts, request
from support.tiny import TinyPair, make_drafter, make_target, reference

VOCAB, GAMMA = 97, 4


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("proposers") / "target")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drafting model of another shape over the same vocabulary."""
    return make_target(tmp_path_factory.mktemp("small") / "small", hidden=32, layers=1, seed=8)


@pytest.fixture(scope="module")
def plain(small: Path) -> PlainModel:
    return PlainModel.load(small)


@torch.inference_mode()
def naive(stock: Any, tokens: list[int], anchor: int, temperature: float, seed: int, choice: int = 0) -> list[int]:
    """γ tokens after `anchor` from `transformers`, the whole prefix again for each."""
    known = tokens[: anchor + 1]
    rows = RowSampling.of([temperature], [1.0], [seed], [choice])
    for _ in range(GAMMA):
        logits = stock(torch.tensor([known])).logits[:, -1]
        known = [*known, int(choose(logits, rows, torch.tensor([len(known)])))]
    return known[anchor + 1 :]


@pytest.mark.parametrize(("temperature", "choice"), [(0.0, 0), (1.0, 0), (0.7, 3)])
def test_plain_blocks_are_what_the_model_says(small: Path, plain: PlainModel, temperature: float, choice: int) -> None:
    tokens = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    anchors = [0, 39, 7, 8, 31]
    blocks = plain_blocks(plain, tokens, anchors, GAMMA, temperature, seed=12, choice=choice)
    stock = reference(small)
    assert blocks.tolist() == [naive(stock, tokens, anchor, temperature, 12, choice) for anchor in anchors]
    assert plain_blocks(plain, tokens[:8], [7], GAMMA, temperature, 12, choice).tolist() == [blocks[2].tolist()]
    assert plain_blocks(plain, tokens, [], GAMMA, temperature, 12).shape == (0, GAMMA)


def test_a_model_with_tied_embeddings_and_another_rotation_loads(tmp_path: Path) -> None:
    torch.manual_seed(4)
    config = Qwen3Config(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    stock = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    stock.save_pretrained(tmp_path)
    ours, tokens = PlainModel.load(tmp_path), torch.randint(50, (2, 20))
    hidden = ours(tokens, torch.arange(20).repeat(2, 1), ours.new_memory(2, 20))
    torch.testing.assert_close(ours.logits(hidden), stock(tokens).logits, atol=1e-4, rtol=1e-4)


def test_other_families_are_refused_by_name(pair_of_other_family: Path) -> None:
    with pytest.raises(DrafterMismatch, match="model_type"):
        PlainModel.load(pair_of_other_family)


@pytest.fixture
def pair_of_other_family(tmp_path: Path, small: Path) -> Path:
    text = (small / "config.json").read_text().replace('"qwen3"', '"llama"')
    (tmp_path / "config.json").write_text(text)
    return tmp_path


class Client:
    """Speaks rounds of token ids to a server."""

    def __init__(self, proposer: Proposer) -> None:
        self.server = DraftServer(proposer, "baseline")
        self.held: dict[int, int] = {}
        self.rounds = 0

    def propose(self, grown: dict[int, list[int]], rows: RowSampling, asked: list[int] | None = None) -> Any:
        """Append what is new of each sequence, all but its last token, and ask for blocks after that one."""
        new = {key: tokens[self.held.get(key, 0) : -1] for key, tokens in grown.items()}
        new = {key: tokens for key, tokens in new.items() if tokens}
        keys = list(grown) if asked is None else asked
        self.rounds += 1
        flat = [token for tokens in new.values() for token in tokens]
        block = self.server.handle(
            b"client",
            DraftRound(
                self.server.welcome.epoch, self.rounds, (),
                torch.tensor(list(new), dtype=torch.int64),
                torch.tensor([self.held.get(key, 0) for key in new], dtype=torch.int64),
                torch.tensor([len(tokens) for tokens in new.values()], dtype=torch.int64),
                torch.empty(len(flat), 0), torch.tensor(flat, dtype=torch.int64),
                torch.tensor(keys, dtype=torch.int64),
                torch.tensor([grown[key][-1] for key in keys]),
                torch.tensor([len(grown[key]) - 1 for key in keys]),
                rows.temperature, rows.top_p, rows.seeds, rows.choices,
            ),
        )  # fmt: skip
        self.held |= {key: len(tokens) - 1 for key, tokens in grown.items()}
        assert block.missing == ()
        return block


def test_served_plain_drafts_are_those_of_each_sequence_alone(plain: PlainModel) -> None:
    """Prompts of one to ninety tokens, uneven growth, rows in any order, one sequence silent for a round."""
    client = Client(PlainProposer(plain, GAMMA))
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randint(VOCAB, (140,), generator=generator).tolist() for _ in range(4)]
    lengths, temperatures = [1, 20, 91, 40], [1.0, 0.0, 1.0, 0.6]
    for step, order in enumerate([[0, 1, 2, 3], [3, 1, 0], [2, 0, 1, 3], [1, 2]]):
        lengths = [length + (step * 3 + key * 5) % 7 for key, length in enumerate(lengths)]
        rows = RowSampling.of([temperatures[k] for k in order], [1.0] * len(order), [k + 9 for k in order], order)
        block = client.propose({k: texts[k][: lengths[k]] for k in order}, rows)
        for row, k in enumerate(order):
            expected = plain_blocks(plain, texts[k], [lengths[k] - 1], GAMMA, temperatures[k], k + 9, choice=k)
            assert block.tokens[row].tolist() == expected[0].tolist()
    assert block.confidence_logits.isfinite().all()
    client.server.forget_client(b"client")
    assert client.server.held_sequences == 0


def test_served_lookups_are_the_offline_ones_and_learn_what_came_true() -> None:
    client = Client(LookupProposer(VOCAB, 64, GAMMA))
    steady, random = [1, 2, 3, 4, 5] * 6, torch.randperm(30).tolist()
    greedy = RowSampling.of([0.0] * 2, [1.0] * 2, [0] * 2, [0] * 2)
    seen = []
    for length in range(1, 30, 3):
        block = client.propose({7: steady[:length], 5: random[:length]}, greedy)
        found = lookup_blocks(steady, [length - 1], GAMMA)[0]
        assert block.tokens[0].tolist() == found + [0] * (GAMMA - len(found))
        assert block.confidence_logits[0].isfinite().tolist() == [slot < len(found) for slot in range(GAMMA)]
        assert bool(block.confidence_logits[1].isneginf().all())
        seen.append(float(block.confidence_logits[0, 0]))
    assert seen[-1] > seen[4] > seen[3]  # all proposals came true
    for text in ([9, 9, 1], [9, 9, 1, 9, 2], [9, 9, 1, 9, 2, 9, 3], [9, 9, 1, 9, 2, 9, 3, 9, 4]):
        last = client.propose({8: text[:-1]}, RowSampling.of([0.0], [1.0], [0], [0]))
    assert float(last.confidence_logits[0, 0]) < float(torch.logit(torch.tensor(0.7)))  # and these did not


def asked(repeats: bool = False) -> list[GenerationRequest]:
    """Greedy and seeded requests; `repeats` asks about prompts that quote themselves."""
    texts = prompts(5, VOCAB, (3, 17, 40, 9, 28))
    texts = [text * 3 for text in texts] if repeats else texts
    return [
        request(i, text, 24, temperature=(0.0, 1.0, 0.7, 0.0, 1.2)[i], seed=i, choice_index=i % 2)
        for i, text in enumerate(texts)
    ]


def outputs(target: Path, requests: list[GenerationRequest], proposer: Proposer | None) -> tuple[Any, ...]:
    with open_tiny(target, None) as engine:
        if proposer is not None:
            engine.attach_proposer(proposer, "baseline")
        done = {each.request_id: each for each in engine.generate(requests)}
    summaries = [done[r.request_id].summary for r in requests]
    rounds = [record for summary in summaries for record in summary.round_records]  # type: ignore[union-attr]
    return [done[r.request_id].tokens for r in requests], sum(a for a, _ in rounds), sum(a for _, a in rounds)


def test_only_what_was_proposed_counts_as_drafted(target: Path) -> None:
    """A prompt without repetition, answered by chance: lookups find little, and nothing is verified for the rest."""
    requests = [request("a", list(range(30)), 12)]
    with open_tiny(target, None) as engine:
        engine.attach_proposer(LookupProposer(VOCAB, 256, 7), "lookup")
        (done,) = engine.generate(requests)
    assert done.summary is not None
    found = sum(len(block) for block in lookup_blocks([*range(30), *done.tokens], range(30, 41), 7))
    assert 0 < done.summary.drafted_tokens <= found < 7 * done.summary.rounds


def test_lookup_changes_no_token(tmp_path: Path) -> None:
    # A narrow target repeats itself soon, so that lookups are both right and wrong.
    narrow = make_target(tmp_path / "narrow", mixing=0.02, spread=6.0)
    plainly, admitted, _ = outputs(narrow, asked(repeats=True), None)
    assert admitted == 0
    drafted, admitted, accepted = outputs(narrow, asked(repeats=True), LookupProposer(VOCAB, 256, 7))
    assert drafted == plainly
    assert admitted > accepted > 20


def test_a_plain_model_changes_no_token(target: Path, plain: PlainModel) -> None:
    plainly, _, _ = outputs(target, asked(), None)
    drafted, admitted, _ = outputs(target, asked(), PlainProposer(plain, 5))
    assert drafted == plainly
    assert admitted > 100


def test_a_target_that_drafts_for_itself_is_always_right(target: Path) -> None:
    """Greedy and seeded: context, positions and noise are those of the target."""
    plainly, _, _ = outputs(target, asked(), None)
    drafted, admitted, accepted = outputs(target, asked(), PlainProposer(PlainModel.load(target), 5))
    assert drafted == plainly
    assert admitted == accepted > 80


def test_a_model_of_another_vocabulary_is_refused(target: Path, tmp_path: Path) -> None:
    other = PlainModel.load(make_target(tmp_path / "other", vocab=64, hidden=16, layers=1))
    with open_tiny(target, None) as engine, pytest.raises(DrafterMismatch, match="vocabulary size"):
        engine.attach_proposer(PlainProposer(other, 3), "other")


def test_a_target_without_projection_is_refused_by_a_drafter_that_reads_it(target: Path, tmp_path: Path) -> None:
    from outrider.drafter.dspark import DSparkProposer
    from outrider.drafter.model import DSparkModel

    pair = TinyPair(target, make_drafter(tmp_path / "drafter", target))
    proposer = DSparkProposer(DSparkModel.load(pair.drafter))
    with open_tiny(pair.target, None) as engine, pytest.raises(DrafterMismatch, match="projection fingerprint"):
        engine.attach_proposer(proposer, "dspark")
    hello = TargetHello("tiny", VOCAB, 48, proposer.fingerprint)
    assert DraftServer(proposer, "dspark").hello(hello).row_size == 48


def test_a_token_reader_takes_over_from_a_dspark_drafter(target: Path, tmp_path: Path) -> None:
    """The engine then sends no rows; block sizes may differ."""
    drafter = make_drafter(tmp_path / "drafter", target, gamma=7)
    requests = asked()
    with open_tiny(target, drafter) as engine:
        expected = [each.tokens for each in engine.generate(requests)]
        engine.attach_proposer(LookupProposer(VOCAB, 256, 3), "lookup")
        assert [each.tokens for each in engine.generate(requests)] == expected
        assert engine.engine.drafting.lost == 0
        assert len(engine.engine.snapshot().acceptance_tokens) == 4
