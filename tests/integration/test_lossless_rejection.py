"""Under the rejection rule the whole engine's output follows the target's own joint distribution; mistakes do not.

As in `test_lossless_statistics`: eight tokens, the first three of many requests, each with a nonce of its own, chosen
in the prefill step and in one to three speculative rounds. Drafts are cut by the planner on a dear curve, by a grammar
and by a proposer that goes by what it saw a round ago.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from outrider.drafter.dspark import DSparkProposer
from outrider.drafter.lookup import LookupProposer
from outrider.drafter.model import DSparkModel
from outrider.drafter.plain import PlainModel, PlainProposer
from outrider.drafter.proposer import Proposer
from outrider.drafter.server import DraftServer
from outrider.engine import Engine, TargetModel
from outrider.errors import LinkError
from outrider.link import DraftBlock, DraftRound, InProcessLink, TargetHello
from outrider.local import LinkKind
from outrider.scheduling import StepCostCurve
from outrider.speculation import (
    DraftedRows,
    RejectionRule,
    RowSampling,
    SparseDraft,
    SparseProbs,
    Stream,
    residual,
    stream_noise,
)
from outrider.types import Constraint, FinishReason, RequestSummary, SamplingParams
from support.engines import CURVE, in_process_link, open_tiny, request, run, settings
from support.statistics import chi_square, exact_joint
from support.surface import SURFACE
from support.tiny import TinyPair, make_drafter, make_target, reference

Record = Callable[[str, object], None]

VOCAB, GAMMA = 8, 3
PROMPT = (3, 1, 4, 1, 5)
SAMPLES = 5000
HONEST = 1e-3
CAUGHT = 1e-6
DEAR = StepCostCurve((1, 10_000), (1.0, 101.0), "dear")
"""At hundreds of requests a draft token must be accepted more often than not to be worth its row."""
FAIR = StepCostCurve((1, 10_000), (1.0, 11.0), "fair")
"""Here one in five will do."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """Eight tokens, a to g and an end, peaked logits, γ = 3; the drafter half knows the target."""
    folder = tmp_path_factory.mktemp("rejection")
    target = make_target(folder / "target", vocab=VOCAB, hidden=16, layers=1, context=32, spread=1.5, mixing=0.3, eos=7)
    letters = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate("abcdefgh")}, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    saved = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="h")
    saved.chat_template = "{{ messages }}"
    saved.save_pretrained(target)
    return TinyPair(
        target, make_drafter(folder / "drafter", target, gamma=GAMMA, layer_ids=(-1,), fitted=0.3, base=0.7)
    )


@pytest.fixture(scope="module")
def stock_small(small: TinyPair) -> Any:
    return reference(small.target)


class Draws:
    """First three tokens of many requests [N, 3], and what happened to the requests."""

    def __init__(self, engine: Engine, ask: dict[str, Any], samples: int) -> None:
        asked = [
            request(i, PROMPT, 8, seed=i, **{"temperature": 1.0, "verification": "rejection", **ask})
            for i in range(samples)
        ]
        chunks = run(engine, asked)
        self.samples = np.array([[t for chunk in chunks[r.request_id] for t in chunk.tokens][:3] for r in asked])
        self.summaries: list[RequestSummary] = [s for one in chunks.values() if (s := one[-1].summary)]
        self.several = sum(len(one[1].tokens) == 1 for one in chunks.values()) / samples
        records = [record for summary in self.summaries for record in summary.round_records]
        self.depths = {admitted for admitted, _ in records}
        self.tau = 1 + sum(accepted for _, accepted in records) / len(records)


def engine_for(
    pair: TinyPair,
    *,
    proposer: Proposer | None = None,
    rejection: RejectionRule | None = None,
    curve: StepCostCurve = CURVE,
    **overrides: Any,
) -> Engine:
    target = TargetModel.load(pair.target, drafter=pair.drafter)
    assert target.projection is not None
    room = {"max_running_requests": 256, "max_queued_requests": 2 * SAMPLES, "max_step_tokens": 2048, "kv_blocks": 256}
    engine = Engine(target, settings(**{**room, **overrides}), curve, rejection=rejection)
    server = DraftServer(proposer or DSparkModel.load(pair.drafter), "small")
    hello = TargetHello("small", target.vocab_size, target.hidden_size, target.projection.fingerprint)
    engine.attach_drafter(InProcessLink(server, hello))
    return engine


def draw(pair: TinyPair, samples: int = SAMPLES, ask: dict[str, Any] | None = None, **engine: Any) -> Draws:
    return Draws(engine_for(pair, **engine), ask or {}, samples)


def exact(stock: Any, ask: dict[str, Any]) -> NDArray[np.float64]:
    return exact_joint(stock, PROMPT, 3, SamplingParams(8, **{"temperature": 1.0, **ask}))


@pytest.mark.parametrize("ask", SURFACE, ids=lambda ask: "+".join(ask))
@pytest.mark.parametrize("curve", [CURVE, DEAR], ids=lambda curve: curve.version)
def test_output_follows_the_targets_joint_distribution(
    small: TinyPair, stock_small: Any, ask: dict[str, Any], curve: StepCostCurve, record_property: Record
) -> None:
    drawn = draw(small, ask=ask, curve=curve)
    assert drawn.several > 0.2
    if curve is DEAR:
        assert len(drawn.depths) > 2
    else:
        assert drawn.tau > 1.3
    p = chi_square(drawn.samples, exact(stock_small, ask))
    record_property("p", p)
    assert p > HONEST


LETTERS = ("abcd", "cdef", "abcde")
WORD = Constraint("regex", "[a-d][c-f][a-e].{1,5}")


def test_a_draft_that_the_grammar_cuts_ends_in_the_residual(
    small: TinyPair, stock_small: Any, record_property: Record
) -> None:
    drawn = draw(small, ask={"constraint": WORD, "ignore_eos": False})
    p = chi_square(drawn.samples, _masked(stock_small))
    record_property("p", p)
    assert p > HONEST


def test_a_bonus_after_a_token_the_grammar_forbids_is_caught(
    small: TinyPair, stock_small: Any, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """The mistake: a draft cut because of its own token counts as one that was admitted no further."""
    monkeypatch.setattr("outrider.engine.planner.cut_refused", _cut_silently)
    drawn = draw(small, ask={"constraint": WORD, "ignore_eos": False})
    p = chi_square(drawn.samples, _masked(stock_small))
    record_property("p", p)
    assert p < CAUGHT


def _cut_silently(sequences: list[Any], drafts: list[list[int]]) -> frozenset[int]:
    for row, sequence in enumerate(sequences):
        drafts[row] = drafts[row][: sequence.shaping.admissible(drafts[row])]
    return frozenset()


@torch.inference_mode()
def _masked(stock: Any) -> NDArray[np.float64]:
    """The joint of the first three tokens when each must be of its set in `LETTERS`."""
    joint = torch.ones(1, dtype=torch.float64)
    prefixes: list[list[int]] = [[]]
    for letters in LETTERS:
        logits = stock(torch.tensor([[*PROMPT, *prefix] for prefix in prefixes])).logits[:, -1].double()
        kept = [ord(letter) - ord("a") for letter in letters]
        barred = [token for token in range(VOCAB) if token not in kept]
        logits[:, barred] = -torch.inf
        joint = (joint[:, None] * torch.softmax(logits, dim=-1)).reshape(-1)
        prefixes = [[*prefix, token] for prefix in prefixes for token in range(VOCAB)]
    return joint.reshape((VOCAB,) * 3).numpy()


def test_through_lost_memory(small: TinyPair, stock_small: Any, record_property: Record) -> None:
    """Sequences give their memory up between their first tokens and go on with draws that nothing has seen."""
    drawn = draw(small, kv_blocks=96, block_size=2)
    assert sum(summary.preemptions > 0 for summary in drawn.summaries) > 0.1 * SAMPLES
    p = chi_square(drawn.samples, exact(stock_small, {}))
    record_property("p", p)
    assert p > HONEST


ON_DEVICE: dict[str, Any] = {"device_rounds": True, "scheduler": "asynchronous"}


def test_rounds_that_stay_on_the_device(small: TinyPair, stock_small: Any, record_property: Record) -> None:
    """Drafted, cut by live confidences and verified one round ahead of the host."""
    proposer = DSparkProposer(DSparkModel.load(small.drafter), device_draft=True)
    drawn = draw(small, proposer=proposer, curve=FAIR, calibration_share=0.0, **ON_DEVICE)
    p = chi_square(drawn.samples, exact(stock_small, {}))
    record_property("p", p)
    assert p > HONEST
    assert drawn.tau > 1.2
    assert drawn.several > 0.1


def test_draws_repeated_on_the_device_are_caught(
    small: TinyPair, stock_small: Any, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """A round launched ahead that reuses the numbers of the last one's draws."""
    monkeypatch.setattr("outrider.engine.device.rounds.count_draws", lambda sequences: None)
    proposer = DSparkProposer(DSparkModel.load(small.drafter), device_draft=True)
    drawn = draw(small, proposer=proposer, calibration_share=0.0, **ON_DEVICE)
    p = chi_square(drawn.samples, exact(stock_small, {}))
    record_property("p", p)
    assert p < CAUGHT


@pytest.mark.parametrize("kind", ["lookup", "plain", "headless", "narrow"])
def test_any_proposer(small: TinyPair, stock_small: Any, kind: str, record_property: Record) -> None:
    """A point mass, a causal model, a drafter without a confidence head, and a q of three tokens."""
    drafter = DSparkModel.load(small.drafter)
    proposer: Proposer
    if kind == "lookup":
        proposer = LookupProposer(VOCAB, 32, GAMMA)
    elif kind == "plain":
        proposer = PlainProposer(PlainModel.load(small.target), GAMMA)
    elif kind == "headless":
        drafter.confidence_head = None
        proposer = DSparkProposer(drafter)
    else:
        proposer = DSparkProposer(drafter, sparse=SparseDraft(width=3))
    drawn = draw(small, proposer=proposer, curve=FAIR)
    assert drawn.tau > 1.05
    assert len(drawn.depths) > 2
    p = chi_square(drawn.samples, exact(stock_small, {}))
    record_property("p", p)
    assert p > HONEST


def test_rules_share_a_batch(small: TinyPair, stock_small: Any, record_property: Record) -> None:
    """Greedy, seeded and rejecting requests in turn: each is what it would be alone, or follows its distribution."""
    kinds: list[dict[str, Any]] = [
        {"verification": "rejection"}, {"verification": "coupled"}, {"temperature": 0.0}, {"verification": "rejection"},
    ]  # fmt: skip
    asked = [request(i, PROMPT, 8, seed=i, **{"temperature": 1.0, **kinds[i % 4]}) for i in range(2 * SAMPLES)]
    chunks = run(engine_for(small), asked)
    tokens = [[t for chunk in chunks[r.request_id] for t in chunk.tokens] for r in asked]
    alone = run(engine_for(small), [asked[place] for place in (*range(1, 200, 4), *range(2, 200, 4))])
    for place in (*range(1, 200, 4), *range(2, 200, 4)):
        assert tokens[place] == [t for chunk in alone[str(place)] for t in chunk.tokens]
    rejecting = np.array([tokens[place][:3] for place in range(2 * SAMPLES) if place % 4 in (0, 3)])
    p = chi_square(rejecting, exact(stock_small, {}))
    record_property("p", p)
    assert p > HONEST


def test_logprobs_stops_and_choices(small: TinyPair, stock_small: Any) -> None:
    """Log-probabilities are those of the emitted tokens, a stop token is the last one, choices are drawn apart."""
    asked = [
        request(
            i, PROMPT, 16, seed=i // 2, choice_index=i % 2, temperature=1.0, verification="rejection",
            logprobs=2, stop_token_ids=(2,),
        )
        for i in range(100)
    ]  # fmt: skip
    chunks = run(engine_for(small), asked)
    answers = []
    for one in asked:
        tokens = [token for chunk in chunks[one.request_id] for token in chunk.tokens]
        told = [each for chunk in chunks[one.request_id] for each in chunk.logprobs]
        assert [each.token for each in told] == tokens
        with torch.inference_mode():
            logits = stock_small(torch.tensor([[*PROMPT, *tokens]])).logits[0, len(PROMPT) - 1 : -1]
        wanted = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor([each.logprob for each in told]), wanted, atol=1e-4, rtol=0)
        assert 2 not in tokens[:-1]
        assert chunks[one.request_id][-1].finish is (FinishReason.STOP if tokens[-1] == 2 else FinishReason.LENGTH)
        answers.append(tokens)
    assert sum(answer[-1] == 2 for answer in answers) > 10
    assert sum(answers[i] != answers[i + 1] for i in range(0, 100, 2)) > 40


def test_over_zeromq_as_in_process(small: TinyPair) -> None:
    """The same draws, whatever carries them: q arrives as it was drawn from."""
    asked = [
        request(i, PROMPT, 12, seed=i, temperature=0.5 + i % 2, verification=("rejection", "coupled")[i % 3 == 0])
        for i in range(24)
    ]
    answers = []
    for link in LinkKind:
        with open_tiny(small.target, small.drafter, link) as local:
            answers.append([completion.tokens for completion in local.generate(asked)])
    assert answers[0] == answers[1]


def test_no_draw_is_numbered_twice(small: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after lost memory, nor after a drafter that went away once it had drawn."""
    engine = engine_for(small, kv_blocks=24, block_size=2)
    drawn: dict[int, list[int]] = {}
    ended: list[tuple[int, int]] = []
    handle, verify = DraftServer.handle, RejectionRule.verify

    def draw_and_tell(self: DraftServer, client: bytes, message: DraftRound, **options: Any) -> DraftBlock:
        block = handle(self, client, message, **options)
        for key, number in zip(message.propose_keys.tolist(), message.rounds.tolist(), strict=True):
            drawn.setdefault(key, []).append(number)
        if sum(map(len, drawn.values())) > 40 and engine.drafting.lost == 0:
            raise LinkError("gone")
        return block

    def end_and_tell(self: RejectionRule, logits: Tensor, rows: RowSampling, drafted: DraftedRows) -> Any:
        assert rows.rounds is not None
        ended.extend({*zip(rows.seeds.tolist(), rows.rounds.tolist(), strict=True)})
        return verify(self, logits, rows, drafted)

    monkeypatch.setattr(DraftServer, "handle", draw_and_tell)
    monkeypatch.setattr(RejectionRule, "verify", end_and_tell)
    for i in range(12):
        engine.submit(request(i, PROMPT, 12, seed=i, temperature=1.0, verification="rejection"))
    preemptions = 0
    while not engine.idle:
        preemptions += sum(chunk.summary.preemptions for _, chunk in engine.step() if chunk.summary)
        if not engine.drafting.ready:
            engine.attach_drafter(in_process_link(engine, small.drafter))
    assert preemptions > 3
    assert engine.drafting.lost == 1
    assert all(numbers == sorted({*numbers}) for numbers in drawn.values())
    assert len(ended) == len({*ended})


class ResidualIsP(RejectionRule):
    """Mistake: after a rejection the token comes from p."""

    def last(self, p: Tensor, q: SparseProbs, rows: RowSampling, slots: Tensor) -> Tensor:
        return super().last(p, SparseProbs.empty(*q.probs.shape), rows, slots)


class SharedNoise(RejectionRule):
    """Mistake: the residual is drawn with the draft's own noise."""

    def last(self, p: Tensor, q: SparseProbs, rows: RowSampling, slots: Tensor) -> Tensor:
        own = super().last(p, q, rows, slots)
        assert rows.rounds is not None
        if q.probs.shape[-1] < VOCAB:
            return own
        drafted = stream_noise(rows.seeds, rows.choices, rows.rounds - 1, slots, Stream.DRAFT, VOCAB)
        shared = (torch.zeros(p.shape).scatter(1, q.tokens, drafted) / residual(p, q)).argmin(dim=-1)
        return torch.where(q.probs.sum(dim=-1) > 0, shared, own)


class OtherQ(SparseDraft):
    """Mistake: the q that is sent is warmer than the one that was drawn from."""

    def draw(self, logits: Tensor, rows: RowSampling, noise: Tensor) -> tuple[Tensor, SparseProbs]:
        tokens, _ = super().draw(logits, rows, noise)
        return tokens, self.probs(logits / 2, rows)


def test_a_residual_drawn_from_p_is_caught(small: TinyPair, stock_small: Any, record_property: Record) -> None:
    drawn = draw(small, rejection=ResidualIsP())
    p = chi_square(drawn.samples, exact(stock_small, {}))
    record_property("p", p)
    assert p < CAUGHT


@pytest.mark.parametrize("rule", [RejectionRule(), SharedNoise()], ids=lambda rule: type(rule).__name__)
def test_noise_shared_with_the_draft_is_caught(
    small: TinyPair, stock_small: Any, rule: RejectionRule, record_property: Record
) -> None:
    """Where few tokens are possible: over many, what the draft's winner says of the others' noise is little."""
    ask = {"top_k": 3}
    drawn = draw(small, ask=ask, rejection=rule)
    p = chi_square(drawn.samples, exact(stock_small, ask))
    record_property("p", p)
    assert (p < CAUGHT) if isinstance(rule, SharedNoise) else (p > HONEST)


def test_a_q_that_was_not_drawn_from_is_caught(small: TinyPair, stock_small: Any, record_property: Record) -> None:
    drawn = draw(small, proposer=DSparkProposer(DSparkModel.load(small.drafter), sparse=OtherQ()))
    p = chi_square(drawn.samples, exact(stock_small, {}))
    record_property("p", p)
    assert p < CAUGHT


class StaleBudget(DSparkProposer):
    """Proposes for a position only where what it drafted for that position a round ago was one of the first tokens.

    A decision on the past, so it may. `by_position` numbers draws by where their tokens stand: the second draft of a
    position then meets the noise that the decision has seen (DSpark section 3, p = (.7, .3), q = (.5, .5)).
    """

    def __init__(self, model: DSparkModel, *, by_position: bool) -> None:
        super().__init__(model, compiled=False)
        self._by_position = by_position
        self._last: dict[int, tuple[int, list[int]]] = {}

    def propose_mixed(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor, SparseProbs]:
        blocks, confidence, q = self._drawn(slots, anchors, positions, sampling)
        for row, (slot, position) in enumerate(zip(slots, positions.tolist(), strict=True)):
            before, block = self._last.pop(slot, (position, []))
            again = block[position - before : position - before + 1] if position > before else []
            if not again or again[0] >= VOCAB // 2:
                confidence[row] = -torch.inf
            self._last[slot] = (position, blocks[row].tolist())
        return blocks, confidence, q

    def _drawn(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor, SparseProbs]:
        if self._by_position:
            self._sparse = PositionKeyed(positions=positions)
        return super().propose_mixed(slots, anchors, positions, sampling)


@dataclass(frozen=True)
class PositionKeyed(SparseDraft):
    """Numbers draws by the position of their token; positions int64 [R] of the anchors."""

    positions: Tensor = field(default_factory=lambda: torch.empty(0))

    def noise(self, rows: RowSampling, gamma: int, vocab: int) -> Tensor:
        at = (self.positions[:, None] + torch.arange(gamma)).flatten()
        seeds, choices = rows.seeds.repeat_interleave(gamma), rows.choices.repeat_interleave(gamma)
        noise = stream_noise(seeds, choices, at, torch.zeros_like(at), Stream.DRAFT, vocab)
        return noise.view(len(rows), gamma, vocab)

    def draw(self, logits: Tensor, rows: RowSampling, noise: Tensor) -> tuple[Tensor, SparseProbs]:
        found = self.probs(logits, rows)
        place = (noise.gather(1, found.tokens) / found.probs).argmin(dim=-1, keepdim=True)
        return found.tokens.gather(1, place).squeeze(1), found


@pytest.mark.parametrize("by_position", [False, True])
def test_a_budget_of_the_past_needs_noise_it_has_not_seen(
    small: TinyPair, stock_small: Any, by_position: bool, record_property: Record
) -> None:
    proposer = StaleBudget(DSparkModel.load(small.drafter), by_position=by_position)
    drawn = draw(small, proposer=proposer)
    assert len(drawn.depths) > 1
    p = chi_square(drawn.samples, exact(stock_small, {}))
    record_property("p", p)
    assert p < CAUGHT if by_position else p > HONEST
