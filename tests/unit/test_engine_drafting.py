"""The engine's side of the link: the drafter always holds the right context, and losing it costs nothing but speed.

Every proposal is compared with one computed from nothing on stock features: a context row that is missing, shifted or
stale would change it, and acceptance would decay silently.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outrider.drafter.model import DSparkModel
from outrider.engine import Engine
from outrider.errors import DrafterMismatch
from outrider.link import InProcessLink
from outrider.speculation import RowSampling
from outrider.types import GenerationRequest, TokenChunk
from support.engines import in_process_link, make_engine, prompts, request, run
from support.proposals import Recorder, check_proposals
from support.tiny import TinyPair, make_drafter

VOCAB = 97
PROMPTS = prompts(5, VOCAB, (4, 33, 12))


def asked(tokens: int = 24) -> list[GenerationRequest]:
    """Greedy and sampled requests."""
    kinds: list[dict[str, float]] = [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.8, "top_p": 0.9, "seed": 4}]
    return [request(i, prompt, tokens, **kinds[i % 3]) for i, prompt in enumerate(PROMPTS)]


def tokens(chunks: dict[str, list[TokenChunk]]) -> dict[str, list[int]]:
    return {name: [token for chunk in one for token in chunk.tokens] for name, one in chunks.items()}


def step_to_end(engine: Engine, chunks: dict[str, list[TokenChunk]], steps: int = 10_000) -> None:
    while not engine.idle and steps:
        for name, chunk in engine.step():
            chunks.setdefault(name, []).append(chunk)
        steps -= 1


def accepted_after(chunks: dict[str, list[TokenChunk]], rounds: int) -> int:
    """Draft tokens accepted after the first `rounds` decode rounds of each request."""
    summaries = [one[-1].summary for one in chunks.values()]
    return sum(a for summary in summaries if summary for _, a in summary.round_records[rounds:])


@pytest.fixture(scope="module")
def plain(pair: TinyPair) -> dict[str, list[int]]:
    return tokens(run(make_engine(pair.target), asked()))


@pytest.fixture(scope="module")
def drafter(pair: TinyPair) -> DSparkModel:
    return DSparkModel.load(pair.drafter)


@pytest.fixture
def engine(pair: TinyPair) -> Engine:
    return make_engine(pair.target, pair.drafter)


@pytest.fixture
def recorder(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(engine, monkeypatch)


@pytest.fixture(scope="module")
def sampling() -> dict[str, RowSampling]:
    return {
        r.request_id: RowSampling.of([r.sampling.temperature], [r.sampling.top_p], [r.sampling.seed], [0])
        for r in asked()
    }


def link_of(engine: Engine) -> InProcessLink:
    link = engine.drafting._link
    assert isinstance(link, InProcessLink)
    return link


def test_every_proposal_is_the_one_computed_from_nothing(
    engine: Engine, recorder: Recorder, stock: Any, drafter: DSparkModel, sampling: dict[str, RowSampling]
) -> None:
    chunks = run(engine, asked())
    assert accepted_after(chunks, 0) > 20
    check_proposals(recorder.seen, stock, drafter, sampling)


def test_chunked_prefill_and_narrow_steps_change_no_proposal(
    pair: TinyPair,
    stock: Any,
    drafter: DSparkModel,
    sampling: dict[str, RowSampling],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(pair.target, pair.drafter, max_step_tokens=16, block_size=8)
    recorder = Recorder(engine, monkeypatch)
    run(engine, asked())
    assert len(recorder.seen) > 20
    check_proposals(recorder.seen, stock, drafter, sampling)


def test_rounds_without_drafts_leave_no_hole_in_the_context(
    engine: Engine,
    recorder: Recorder,
    plain: dict[str, list[int]],
    stock: Any,
    drafter: DSparkModel,
    sampling: dict[str, RowSampling],
) -> None:
    """Cap 7, then 0 for some rounds, then 7 again."""
    chunks: dict[str, list[TokenChunk]] = {}
    for one in asked():
        engine.submit(one)
    for cap in (7, 0, 7):
        for sequence in engine.running:
            sequence.request = replace(sequence.request, depth_cap=cap)
        before = recorder.asked
        step_to_end(engine, chunks, 4)
        assert (recorder.asked == before) == (cap == 0)
    step_to_end(engine, chunks)
    assert tokens(chunks) == plain
    assert accepted_after(chunks, 8) > 0
    check_proposals(recorder.seen, stock, drafter, sampling)


def test_a_context_the_drafter_lost_is_refilled(
    engine: Engine,
    recorder: Recorder,
    plain: dict[str, list[int]],
    stock: Any,
    drafter: DSparkModel,
    sampling: dict[str, RowSampling],
) -> None:
    """As after a drafter's idle time-out: one round is drafted in vain, the next one has everything again."""
    chunks: dict[str, list[TokenChunk]] = {}
    for one in asked():
        engine.submit(one)
    step_to_end(engine, chunks, 3)
    held = len(recorder.seen)
    link = link_of(engine)
    link.handler.forget_client(link.client)
    step_to_end(engine, chunks, 1)
    lost = recorder.seen[held:]
    assert lost
    assert all(proposal.missing for proposal in lost)
    assert all(sequence.rounds[-1] == (0, 0) for sequence in engine.running)
    step_to_end(engine, chunks)
    after = recorder.seen[held + len(lost) :]
    assert after
    assert not any(proposal.missing for proposal in after)
    assert tokens(chunks) == plain
    assert accepted_after(chunks, 4) > 0
    check_proposals(recorder.seen[:held] + after, stock, drafter, sampling)


def test_a_new_drafter_is_refilled_in_the_middle(
    engine: Engine,
    pair: TinyPair,
    recorder: Recorder,
    plain: dict[str, list[int]],
    stock: Any,
    drafter: DSparkModel,
    sampling: dict[str, RowSampling],
) -> None:
    chunks: dict[str, list[TokenChunk]] = {}
    for one in asked():
        engine.submit(one)
    step_to_end(engine, chunks, 3)
    engine.drafting.detach()
    step_to_end(engine, chunks, 3)
    engine.attach_drafter(in_process_link(engine, pair.drafter))
    step_to_end(engine, chunks)
    assert tokens(chunks) == plain
    assert accepted_after(chunks, 6) > 0
    check_proposals(recorder.seen, stock, drafter, sampling)


def test_a_broken_link_is_dropped_once_and_nothing_is_lost(
    engine: Engine, recorder: Recorder, plain: dict[str, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    chunks: dict[str, list[TokenChunk]] = {}
    for one in asked():
        engine.submit(one)
    step_to_end(engine, chunks, 3)
    drafted, asked_before = len(recorder.seen), recorder.asked
    link_of(engine).close()
    step_to_end(engine, chunks)
    assert engine.drafting.lost == 1
    assert not engine.drafting.ready
    assert recorder.asked == asked_before + 1
    assert len(recorder.seen) == drafted
    assert tokens(chunks) == plain
    assert accepted_after(chunks, 3) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert engine.snapshot().acceptance_tokens == (1.0,)


def test_a_fault_inside_the_drafter_is_a_lost_drafter(
    engine: Engine, plain: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(link_of(engine).handler, "handle", fail)
    assert tokens(run(engine, asked())) == plain
    assert engine.drafting.lost == 1


@pytest.mark.parametrize("how", ["ends", "is cancelled", "fails"])
def test_the_drafter_forgets_a_sequence_that(engine: Engine, how: str) -> None:
    server: Any = link_of(engine).handler
    for one in asked():
        engine.submit(one)
    for _ in range(3):
        engine.step()
    assert server.held_sequences == len(PROMPTS)
    if how == "fails":
        engine.fail("engine_fault: on purpose")
    elif how == "is cancelled":
        engine.cancel("0")
        engine.step()
        assert server.held_sequences == len(PROMPTS) - 1
        for one in asked()[1:]:
            engine.cancel(one.request_id)
    while not engine.idle:
        engine.step()
    assert server.held_sequences == 0
    assert engine.drafting.lost == 0


def test_a_request_at_depth_zero_costs_the_drafter_nothing(engine: Engine) -> None:
    server: Any = link_of(engine).handler
    for one in asked():
        engine.submit(replace(one, depth_cap=0 if one.request_id != "1" else 7))
    held = []
    while not engine.idle:
        engine.step()
        held.append(server.held_sequences)
    assert max(held) == 1


def test_a_projection_from_another_drafter_is_refused(engine: Engine, pair: TinyPair, tmp_path: Path) -> None:
    other = make_drafter(tmp_path / "other", pair.target, seed=9)
    with pytest.raises(DrafterMismatch, match="fingerprint"):
        in_process_link(engine, other)


def test_a_replica_is_cold_again_with_another_step_or_drafter(pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it did before says nothing of what it does now: the router's predictor must know."""
    engine = make_engine(pair.target, pair.drafter)
    clock_s = [engine._changed_s]
    monkeypatch.setattr("outrider.engine.engine.time.monotonic", lambda: clock_s[0])
    clock_s[0] += 60.0
    assert engine.snapshot().warm_s == pytest.approx(60.0)
    engine.attach_drafter(in_process_link(engine, pair.drafter))
    assert engine.snapshot().warm_s == 0.0
    clock_s[0] += 60.0
    assert engine.snapshot().warm_s == pytest.approx(60.0)
    monkeypatch.setattr(type(engine.target), "step_kind", "another")
    assert engine.snapshot().warm_s == 0.0
