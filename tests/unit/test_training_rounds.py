"""Offline acceptance against the real engine at full depth, and its figures against hand counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from outrider.drafter.lookup import LookupProposer
from outrider.drafter.model import DSparkModel
from outrider.drafter.plain import PlainModel, PlainProposer
from outrider.training import trials
from outrider.training.acceptance import figures_by_domain, slot_figures, threshold_sweep
from outrider.training.rounds import KnownAnswer, Rounds, play, states_of
from outrider.training.trials import Trial, answer_trials, is_degenerate
from support.engines import make_engine, prompts, request, run
from support.tiny import make_drafter, make_target, reference

STOP = 11


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"), eos=STOP)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("head", ["vanilla", "rnn"])
def test_offline_rounds_are_the_engines_at_full_depth(
    target: Path, tmp_path: Path, temperature: float, head: str
) -> None:
    drafter = make_drafter(tmp_path / "drafter", target, gamma=4, markov_head_type=head, confidence_bias=20.0)
    engine = make_engine(target, drafter, scheduler="fixed:4")
    wanted = [
        request(i, prompt, 30, temperature=temperature, seed=40 + i, ignore_eos=False)
        for i, prompt in enumerate(prompts(12, 90, (5, 12, 3)))
    ]
    chunks = run(engine, wanted)
    answers, tried, accepted, rounds, emitted = [], 0, 0, 0, 0
    for each in wanted:
        tokens = [token for chunk in chunks[each.request_id] for token in chunk.tokens]
        answers.append(KnownAnswer(list(each.prompt_token_ids), tokens, each.sampling.seed, 30))
        summary = chunks[each.request_id][-1].summary
        assert summary is not None
        rounds += len(summary.round_records)
        tried += sum(admitted for admitted, _ in summary.round_records)
        accepted += sum(count for _, count in summary.round_records)
        emitted += len(tokens) - 1
    assert any(answer.response[-1] == STOP for answer in answers)
    assert accepted > (rounds / 4 if head == "vanilla" else 0)

    model = DSparkModel.load(drafter)
    offline = play(model, answers, states_of(reference(target), answers, (0, 1)), temperature)
    assert int(offline.emitted.sum()) == emitted
    assert len(offline.run) == rounds
    assert int(offline.accepted.sum()) == accepted
    assert int(offline.verified.sum()) == tried


def test_the_target_itself_is_always_right(target: Path, tmp_path: Path) -> None:
    engine = make_engine(target)
    wanted = [request(i, p, 20, temperature=1.0, seed=i) for i, p in enumerate(prompts(3, 90, (6,)))]
    chunks = run(engine, wanted)
    answers = [
        KnownAnswer(list(r.prompt_token_ids), [t for c in chunks[r.request_id] for t in c.tokens], r.sampling.seed, 20)
        for r in wanted
    ]
    rounds = play(PlainProposer(PlainModel.load(target), 5), answers, None, 1.0)
    assert np.all(rounds.run == np.minimum(5, rounds.left))


def test_lookup_proposes_only_what_it_found() -> None:
    answers = [KnownAnswer([1, 2, 3, 4, 1, 2], [3, 4, 1, 2, 3], 0, 40), KnownAnswer([5, 6], [0, 7, 8], 0, 40)]
    rounds = play(LookupProposer(20, 64, 3), answers, None, 1.0)
    first, second = rounds.of([0]), rounds.of([1])
    assert first.run.tolist() == [3]
    assert first.emitted.tolist() == [4]
    assert second.run.tolist() == [0, 0]  # token 0 was not proposed, it only pads


def test_figures_are_hand_counts() -> None:
    confidence = np.zeros((5, 3), dtype=np.float32)
    rounds = Rounds(
        prompt=np.array([0, 0, 1, 1, 2]),
        run=np.array([3, 1, 0, 2, 0]),
        left=np.array([9, 2, 5, 2, 1]),
        verified=np.array([3, 2, 3, 2, 0]),
        confidence=confidence,
    )
    slots = slot_figures(rounds)
    assert slots["conditional"] == [3 / 5, 2 / 3, 1.0]
    assert slots["survival"] == [3 / 5, 2 / 4, 1 / 2]
    found = figures_by_domain(rounds, ["a", "a", "b"])
    assert found["domains"]["a"]["tau"] == (4 + 2 + 1 + 2) / 4
    assert found["domains"]["b"]["tau"] == 1.0
    assert found["macro_tau"] == pytest.approx((9 / 4 + 1) / 2)
    low, high = found["domains"]["a"]["tau_interval"]
    assert low == pytest.approx(1.5)
    assert high == pytest.approx(3.0)
    assert found["all"]["accepted_per_verified"] == 6 / 10


def test_a_threshold_cuts_blocks_where_confidence_first_falls_below() -> None:
    chances = np.array([[0.9, 0.8, 0.3], [0.6, 0.2, 0.9], [0.4, 0.9, 0.9]])
    logits = np.log(chances / (1 - chances)).astype(np.float32)
    run, left, verified = np.array([3, 0, 1]), np.array([9, 9, 2]), np.array([3, 3, 2])
    rounds = Rounds(np.arange(3), run, left, verified, logits)
    whole, middle, last = threshold_sweep(rounds, [0.0, 0.5, 0.95])
    assert (whole["accepted"], whole["rejected"], whole["accepted_per_verified"]) == (4 / 3, 4 / 3, 0.5)
    assert whole["accepted"] == float(rounds.accepted.mean())  # as counted at full depth
    assert middle["accepted"] == 2 / 3  # two of the first round; the others are cut before what they would accept
    assert middle["rejected"] == pytest.approx(1 / 3)
    assert middle["accepted_per_verified"] == pytest.approx(2 / 3)
    assert last == {"threshold": 0.95, "accepted": 0.0, "rejected": 0.0, "accepted_per_verified": None}


def test_rounds_survive_the_disk(tmp_path: Path) -> None:
    rounds = Rounds(*(np.arange(4) for _ in range(4)), confidence=np.full((4, 2), -np.inf, dtype=np.float32))
    rounds.save(tmp_path / "r.npz")
    found = Rounds.load(tmp_path / "r.npz")
    assert found.run.tolist() == rounds.run.tolist()
    assert np.array_equal(found.confidence, rounds.confidence)


def test_loops_are_degenerate_and_prose_is_not() -> None:
    assert is_degenerate("and then the same again, " * 12)
    assert not is_degenerate(Path(__file__).read_text("utf-8")[:700])
    assert not is_degenerate("12")


def test_answers_that_were_stopped_go_on_after_the_last_whole_one(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Trial(f"p{i}", "prose", list(prompt)) for i, prompt in enumerate(prompts(5, 90, (5, 9, 3)))]
    monkeypatch.setattr(trials, "_IN_FLIGHT", 2)
    whole = answer_trials(target, asked, 1.0, 20, 7, tmp_path / "whole.jsonl")
    assert [answer.prompt for answer in whole] == [trial.tokens for trial in asked]
    content = (tmp_path / "whole.jsonl").read_bytes()
    file = tmp_path / "torn.jsonl"
    newlines = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    started: list[int] = []
    real = trials.in_order
    monkeypatch.setattr(trials, "in_order", lambda local, left, n: (started.append(len(left)), real(local, left, n))[1])
    other = content[newlines[2] : newlines[3]]  # an answer to another prompt is none to this one
    cuts = (0, newlines[0] - 5, newlines[0], newlines[2] + 20, len(content) - 1)
    for torn in (*(content[:cut] for cut in cuts), content[: newlines[0]] + other + content[newlines[1] :]):
        file.write_bytes(torn)
        assert answer_trials(target, asked, 1.0, 20, 7, file) == whole
        assert file.read_bytes() == content
    assert started == [5, 5, 4, 2, 1, 4]
    assert answer_trials(target, asked, 1.0, 20, 7, file) == whole
    assert len(started) == 6
