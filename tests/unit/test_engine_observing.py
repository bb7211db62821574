"""The verify-everything slice: who is in it, what it yields, and what is made of that."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outrider.engine.observing import Observer
from outrider.engine.sequence import Sequence
from outrider.errors import ConfigurationError
from outrider.scheduling import Calibration, StepCostCurve, prefix_survival
from outrider.scheduling.calibration import traffic_class
from outrider.types import Constraint, FinishReason
from support.engines import make_engine, prompts, request, run, settings
from support.texts import VOCAB, save_tokenizer
from support.tiny import TinyPair, make_drafter, make_target

GAMMA = 4
DEAR = StepCostCurve((1, 1000), (1.0, 1000.0), "every token costs a step")
"""Under it no draft token pays: what is verified all the same is of the slice."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    folder = tmp_path_factory.mktemp("observed")
    target = save_tokenizer(make_target(folder / "target", vocab=VOCAB, eos=1))
    return TinyPair(target, make_drafter(folder / "drafter", target, gamma=GAMMA))


class Traffic:
    """Feeds an observer what a drafter whose slots survive with σ(z/true) would have come to.

    `mixed`: the confidences are another round's.
    """

    def __init__(self, observer: Observer, seed: int, temperature: float = 0.0) -> None:
        self.observer = observer
        self._rng = np.random.default_rng(seed)
        self._temperature = temperature
        self._key = seed << 20

    def rounds(self, count: int, true: float = 1.0, *, mixed: bool = False) -> None:
        for _ in range(count):
            self._key += 1
            sequence = Sequence(
                request(self._key, (1, 2), 40, temperature=self._temperature), self._key, 0.0, [1, 2, 3]
            )
            logits, shown = self._rng.normal(0.8, 1.5, (2, GAMMA)).astype(np.float32)
            alive = self._rng.random(GAMMA) < 1 / (1 + np.exp(-logits / true))
            accepted = int(alive.cumprod().sum())
            self.observer.watch(sequence, shown if mixed else logits, GAMMA)
            sequence.tokens += [0] * (accepted + 1)
            self.observer.record(sequence, accepted)
            sequence.tokens += [0] * GAMMA
            self.observer.record(sequence, 0)


def observer(share: float = 0.01, shipped: Calibration | None = None) -> Observer:
    made = Observer(shipped, share, "tiny")
    made.follow("drafter", GAMMA)
    return made


def sequences(count: int, rounds: int = 0) -> list[Sequence]:
    made = [Sequence(request(key, (1, 2), 40), key, 0.0, [1, 2, 3]) for key in range(count)]
    for sequence in made:
        sequence.rounds = [(0, 0)] * rounds
    return made


def test_the_slice_has_its_share_and_neither_rounds_nor_sequences_go_together() -> None:
    drawn = np.zeros((40, 500), dtype=bool)
    seen = observer(0.1)
    for round_ in range(40):
        drawn[round_, seen.slice(sequences(500, round_))] = True
    assert drawn.mean() == pytest.approx(0.1, abs=0.01)
    assert drawn.mean(axis=0).max() < 0.4
    assert drawn.mean(axis=1) == pytest.approx(0.1, abs=0.06)
    assert abs(float(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1])) < 0.03
    assert observer(0.0).slice(sequences(500)) == []
    assert observer(1.0).slice(sequences(500, 7)) == list(range(500))


def test_the_slice_is_a_function_of_sequence_and_round_alone() -> None:
    plain, other = sequences(200, 3), sequences(200, 3)
    for sequence in other:
        sequence.tokens = [9, 8, 7, 6]
        sequence.rounds = [(4, 4), (1, 0), (2, 1)]
    busy = observer(0.3)
    Traffic(busy, 5).rounds(300, true=0.3)
    busy.slice(sequences(200, 1))  # asked before or not: rounds without a draft are passed over
    assert 30 < len(busy.slice(other)) < 90
    assert observer(0.3).slice(plain) == busy.slice(other)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="calibration_share"):
        settings(calibration_share=1.5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rounds_of_the_slice_verify_what_would_not_pay(pair: TinyPair, temperature: float) -> None:
    wanted = [request(i, p, 24, temperature=temperature, seed=i) for i, p in enumerate(prompts(6, 90, (5, 9)))]
    answers = []
    for share in (0.0, 0.3):
        engine = make_engine(pair.target, pair.drafter, curve=DEAR, calibration_share=share, scheduler="algorithm1")
        chunks = run(engine, wanted)
        rounds = [r for each in chunks.values() for r in each[-1].summary.round_records]  # type: ignore[union-attr]
        assert any(depth > 0 for depth, _ in rounds) == (share > 0)
        answers.append({name: [t for c in each for t in c.tokens] for name, each in chunks.items()})
    assert answers[0] == answers[1]


@pytest.mark.parametrize("constraint", [None, Constraint("regex", "[a-p]{9,15}")])
@pytest.mark.parametrize(("rule", "temperature"), [("coupled", 0.0), ("coupled", 1.0), ("rejection", 1.0)])
def test_what_the_engine_observes_is_what_its_answers_say(
    pair: TinyPair, rule: str, temperature: float, constraint: Constraint | None
) -> None:
    """Every round is of the slice; labels are compared with the finished answers. What a grammar cuts is rejected."""
    engine = make_engine(pair.target, pair.drafter, calibration_share=1.0)
    kept: list[tuple[int, int, int, int]] = []
    keep = engine._observer._keep

    def listen(sequence: Sequence, pending: Any) -> None:
        keep(sequence, pending)
        traffic = engine._observer._traffic[rule, traffic_class(temperature)]
        seen = traffic.newest(1)[0]
        kept.append((int(sequence.request.request_id), pending.start, int(seen.run[0]), int(seen.left[0])))

    engine._observer._keep = listen  # type: ignore[method-assign]
    blocks: dict[tuple[int, int], list[int]] = {}
    propose = engine.drafting.propose

    def note(asked: list[Sequence], sampling: object) -> object:
        proposals = propose(asked, sampling)  # type: ignore[arg-type]
        assert proposals is not None
        for sequence, tokens in zip(asked, proposals.tokens, strict=True):
            blocks[int(sequence.request.request_id), sequence.emitted] = tokens
        return proposals

    engine.drafting.propose = note  # type: ignore[method-assign, assignment]
    ends = [{}, {"stop_token_ids": tuple(range(0, VOCAB, 12))}]
    how = {"temperature": temperature, "verification": rule, "constraint": constraint, "ignore_eos": constraint is None}
    wanted = [request(i, p, 20, seed=i, **how, **ends[i % 2]) for i, p in enumerate(prompts(10, 90, (5, 9)))]
    chunks = run(engine, wanted)
    answers = {int(name): [t for c in each for t in c.tokens] for name, each in chunks.items()}
    assert any(each[-1].finish is FinishReason.STOP for each in chunks.values())
    assert len(kept) > 30
    for number, start, ran, left in kept:
        following, block = answers[number][start:], blocks[number, start]
        both = zip(block, following, strict=False)
        agreed = next((slot for slot, (drafted, chosen) in enumerate(both) if drafted != chosen), len(block))
        assert left == min(GAMMA, len(following), 20 - start - 1)
        assert min(ran, left) == min(agreed, left)


def test_a_healthy_drafter_is_left_alone() -> None:
    breaks = refits = 0
    for seed in range(10):
        seen = observer()
        Traffic(seen, seed).rounds(1000)
        (told,) = seen.reports
        breaks, refits = breaks + told.breaks, refits + told.refits
        assert told.trusted
        assert seen.trusted("coupled", "greedy")
    assert breaks == 0
    assert refits <= 1


@pytest.mark.parametrize("seed", range(5))
def test_scrambled_confidences_lose_trust_and_a_refit_regains_it(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    seen = observer()
    traffic = Traffic(seen, seed)
    traffic.rounds(512)
    with caplog.at_level(logging.INFO, "outrider.engine.observing"):
        traffic.rounds(96, mixed=True)
        assert not seen.trusted("coupled", "greedy")
        assert seen.trusted("coupled", "sampled")
        logits = np.random.default_rng(0).normal(size=(3, GAMMA)).astype(np.float32)
        logits[1, 2:] = -np.inf
        given = seen.survival(logits, np.array([0.0, 0.0, 1.0], dtype=np.float32), [2])
        accepted = prefix_survival(np.random.default_rng(7).normal(0.8, 1.5, (4000, GAMMA))).mean(axis=0)
        assert (given[0] < accepted + 0.06).all()  # a lower bound of what is accepted, whatever the confidences say
        assert (given[0] > accepted - 0.25).all()
        assert given[1].tolist() == [*given[0, :2], 0.0, 0.0]
        np.testing.assert_allclose(given[2], prefix_survival(logits[2:])[0])
        traffic.rounds(700, mixed=True)
    (told,) = seen.reports
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert 1 <= len(warnings) == told.breaks <= 2
    assert told.refits >= 1
    assert told.auc[0] == pytest.approx(0.5, abs=0.1)
    # what is said now is worth more than the confidences were: the same chance for everyone
    shown = np.random.default_rng(7).normal(0.8, 1.5, (4000, GAMMA)).astype(np.float32)
    spread = seen.survival(shown, np.zeros(4000, dtype=np.float32)).std(axis=0)
    assert (spread < 0.6 * prefix_survival(shown).std(axis=0)).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_distorted_drafter_is_recalibrated(seed: int) -> None:
    distorted = observer()
    Traffic(distorted, seed).rounds(1500, true=0.35)
    logits, errors = np.random.default_rng(99).normal(0.8, 1.5, (4000, GAMMA)).astype(np.float32), []
    true = prefix_survival(logits / np.float32(0.35))
    for survival in (prefix_survival(logits), distorted.survival(logits, np.zeros(4000, dtype=np.float32))):
        errors.append(float(np.abs(survival - true).mean()))
    assert errors[1] < 0.6 * errors[0]


def test_another_drafter_starts_from_what_was_shipped() -> None:
    shipped = Calibration(GAMMA, {("coupled", "greedy"): np.full(GAMMA, 2.0)})
    seen = observer(shipped=shipped)
    Traffic(seen, 1).rounds(1500, true=0.3)
    assert seen.reports[0].refits >= 1
    seen.follow("drafter", GAMMA)
    assert seen.reports
    seen.follow("another", GAMMA)
    assert not seen.reports
    logits = np.ones((1, GAMMA), dtype=np.float32)
    np.testing.assert_allclose(seen.survival(logits, np.zeros(1, dtype=np.float32)), prefix_survival(logits / 2.0))
    seen.follow("wider", GAMMA + 1)
    assert seen.survival(np.ones((1, GAMMA + 1), dtype=np.float32), np.zeros(1, dtype=np.float32)).shape == (
        1,
        GAMMA + 1,
    )


def test_an_engine_withdraws_trust_from_a_drafter_that_is_sure_of_everything(tmp_path: Path, pair: TinyPair) -> None:
    sure = make_drafter(tmp_path / "sure", pair.target, gamma=GAMMA, confidence_bias=6.0)
    engine = make_engine(pair.target, sure, calibration_share=1.0)
    trusted: list[bool] = []
    for start in range(0, 60, 6):
        asked = enumerate(prompts(6, 90, (5, 9), seed=start), start)
        run(engine, [request(i, p, 24, temperature=1.0, seed=i) for i, p in asked])
        trusted += [each.trusted for each in engine.snapshot().calibration]
    (told,) = engine.snapshot().calibration
    assert not all(trusted)
    assert told.breaks >= 1
    assert told.refits >= 1
    sure_of = np.full((1, GAMMA), 6.0, dtype=np.float32)
    assert prefix_survival(sure_of)[0, -1] > 0.98
    assert engine._observer.survival(sure_of, np.ones(1, dtype=np.float32))[0, -1] < 0.7
