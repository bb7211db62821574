"""How a step is filled: admission by memory, and how much prefill decoding requests tolerate beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from outrider.engine import Engine
from outrider.types import BatchClass
from support.engines import make_engine, prompts, request
from support.tiny import TinyPair

VOCAB, BLOCK = 97, 16


@dataclass(frozen=True)
class Filling:
    """One step: how many sequences decoded, the prompt tokens computed, and all tokens of the flat batch."""

    decoding: int
    prefill: int
    tokens: int


def steps(engine: Engine) -> Iterator[Filling]:
    """Run to the end, telling each step's filling."""
    while not engine.idle:
        before = {s.key: s.num_computed for s in engine.running if not s.decoding}
        queued = list(engine.queue)
        decoding = sum(s.decoding for s in engine.running)
        started = {s.key: s for s in (*engine.running, *queued)}
        engine.step()
        moved = 0
        for key, sequence in started.items():
            at = before.get(key, 0 if sequence in queued else None)
            if at is not None:
                moved += min(sequence.num_computed, sequence.prompt_tokens) - at
        assert engine.last_times is not None
        yield Filling(decoding, moved, engine.last_times.tokens)
        engine.memory.pool.check_integrity()


def test_prefill_alone_fills_the_step(pair: TinyPair) -> None:
    engine = make_engine(pair.target, max_step_tokens=64)
    for i in range(3):
        engine.submit(request(i, [i + 1] * 50, 1))
    assert [f.tokens for f in steps(engine)] == [64, 64, 22]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_decoding_requests_bound_the_prefill_beside_them(pair: TinyPair, share: float) -> None:
    """share · co_batch_tokens a step, where 128 tokens of prompt would fit without them."""
    engine = make_engine(pair.target, pair.drafter, max_step_tokens=128)
    patient = BatchClass("patient", prefill_share=share, co_batch_tokens=96)
    engine.submit(request("decoding", [3, 4, 5], 60, batch_class=patient))
    engine.step()
    for i in range(4):
        engine.submit(request(i, [i + 1] * 100, 1))
    beside = [f for f in steps(engine) if f.decoding and f.prefill]
    assert len(beside) >= 4
    assert max(f.prefill for f in beside) == min(int(share * 96), 96 - 1)
    assert max(f.tokens for f in beside) <= 96


def test_the_most_impatient_request_decides(pair: TinyPair) -> None:
    engine = make_engine(pair.target, pair.drafter, max_step_tokens=256)
    for name, share, tokens in (("tight", 0.5, 64), ("loose", 1.0, 256)):
        kind = BatchClass(name, prefill_share=share, co_batch_tokens=tokens)
        engine.submit(request(name, [3, 4, 5], 40, batch_class=kind))
    engine.step()
    engine.submit(request("long", [9] * 200, 1))
    beside = [f for f in steps(engine) if f.decoding == 2 and f.prefill]
    assert max(f.prefill for f in beside) == 32
    assert max(f.tokens for f in beside) <= 64


def test_a_prompt_always_advances_by_a_block(pair: TinyPair) -> None:
    """However impatient its neighbours, so that nobody starves."""
    engine = make_engine(pair.target, pair.drafter)
    hard = BatchClass("hard", prefill_share=0.01, co_batch_tokens=BLOCK + 1)
    engine.submit(request("decoding", [3], 80, batch_class=hard, depth_cap=0))
    engine.step()
    engine.submit(request("long", [9] * 100, 1))
    beside = [f.prefill for f in steps(engine) if f.decoding and f.prefill]
    assert beside == [BLOCK] * 6 + [4]


@pytest.mark.parametrize("observed", [0.0, 1.0])
def test_the_step_limit_holds_with_drafts_and_prefill(pair: TinyPair, observed: float) -> None:
    """Also where blocks are verified whole to see what confidences are worth."""
    engine = make_engine(pair.target, pair.drafter, max_step_tokens=48, calibration_share=observed)
    for i, prompt in enumerate(prompts(10, VOCAB, (40, 5, 70))):
        engine.submit(request(i, prompt, 12))
    filled = list(steps(engine))
    assert max(f.tokens for f in filled) <= 48
    assert any(f.prefill and f.tokens > f.decoding + f.prefill for f in filled)


def test_at_a_fixed_depth_drafts_share_the_step_equally(pair: TinyPair) -> None:
    engine = make_engine(pair.target, pair.drafter, max_step_tokens=32, scheduler="fixed:7", calibration_share=0.0)
    for i in range(8):
        engine.submit(request(i, [i + 1], 12))
    engine.step()
    assert sum(s.decoding for s in engine.running) == 8
    engine.step()
    assert {s.rounds[0][0] for s in engine.running} == {3}


def test_admission_waits_for_memory_and_everything_completes(pair: TinyPair) -> None:
    """Blocks for two of eight requests to begin and grow: first come, first served."""
    engine = make_engine(pair.target, pair.drafter, kv_blocks=6)
    for i, prompt in enumerate(prompts(8, VOCAB, (30,))):
        engine.submit(request(i, prompt, 15))
    finished: list[str] = []
    while not engine.idle:
        finished += [name for name, chunk in engine.step() if chunk.finish]
        engine.check_integrity()
        assert len(engine.running) <= 2
    assert sorted(finished) == [str(i) for i in range(8)]
    assert {finished.index(str(i)) // 2 for i in (0, 1)} == {0}


def test_a_large_request_is_not_overtaken_for_ever(pair: TinyPair) -> None:
    """Its turn comes before that of smaller ones behind it, although they would fit."""
    engine = make_engine(pair.target, kv_blocks=6)
    engine.submit(request("first", [1] * 30, 20))
    engine.submit(request("large", [2] * 80, 10))
    engine.submit(request("small", [3] * 5, 5))
    order: list[str] = []
    while not engine.idle:
        order += [name for name, chunk in engine.step() if chunk.finish]
    assert order.index("first") < order.index("large")
    assert engine.memory.pool.used == 0


def test_the_running_limit_holds(pair: TinyPair) -> None:
    engine = make_engine(pair.target, max_running_requests=3)
    for i in range(7):
        engine.submit(request(i, [i + 1], 3))
    while not engine.idle:
        engine.step()
        assert len(engine.running) <= 3


def test_a_patient_request_waits_for_company(pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts when its class tires of waiting, when somebody in a hurry comes, or when the room is filled."""
    now = 100.0
    monkeypatch.setattr("outrider.engine.engine.time.monotonic", lambda: now)
    patient = BatchClass("throughput", admission_wait_s=2.0)

    def fresh() -> Engine:
        engine = make_engine(pair.target, max_running_requests=3)
        engine.submit(request("patient", [1, 2], 4, batch_class=patient))
        assert engine.step() == []
        assert engine.admission_wait_s == pytest.approx(2.0)
        return engine

    tired, hurried, filled = fresh(), fresh(), fresh()
    now = 101.0
    assert tired.step() == []
    assert tired.admission_wait_s == pytest.approx(1.0)
    now = 102.5
    assert [name for name, _ in tired.step()] == ["patient"]
    hurried.submit(request("hurried", [3], 4))
    assert hurried.admission_wait_s == 0
    assert [name for name, _ in hurried.step()] == ["patient", "hurried"]
    now = 100.0
    for i in range(2):
        filled.submit(request(i, [3], 4, batch_class=patient))
    assert [name for name, _ in filled.step()] == ["patient", "0", "1"]
