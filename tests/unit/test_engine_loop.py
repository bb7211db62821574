"""The engine's thread: commands from other threads, chunks in order, and a step that raises."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from outrider.engine import Engine, EngineLoop, Profile, TargetModel
from outrider.errors import CurveError, EngineFault, InvalidRequest, NotReady
from outrider.scheduling import CostModel, StepCostCurve
from outrider.types import FinishReason, LoadSnapshot, TokenChunk
from support.engines import CURVE, in_process_link, make_engine, prompts, request, run, settings
from support.tiny import TinyPair

VOCAB, PATIENCE_S = 97, 120
PROMPTS = prompts(6, VOCAB, (3, 20, 33))


class Listener:
    """Collects what `on_round` is told, on whichever thread."""

    def __init__(self) -> None:
        self.rounds: queue.Queue[list[tuple[str, TokenChunk]]] = queue.Queue()
        self.snapshots: list[LoadSnapshot] = []
        self.threads: set[str] = set()
        self.chunks: dict[str, list[TokenChunk]] = {}

    def __call__(self, chunks: list[tuple[str, TokenChunk]], snapshot: LoadSnapshot) -> None:
        self.snapshots.append(snapshot)
        self.threads.add(threading.current_thread().name)
        self.rounds.put(chunks)

    def until(self, *names: str) -> None:
        """Wait until the named requests have had their last chunk."""
        while not all(self.chunks.get(name) and self.chunks[name][-1].finish for name in names):
            for name, chunk in self.rounds.get(timeout=PATIENCE_S):
                self.chunks.setdefault(name, []).append(chunk)

    def tokens(self, name: str) -> list[int]:
        return [token for chunk in self.chunks[name] for token in chunk.tokens]


@pytest.fixture
def engine(pair: TinyPair) -> Engine:
    return make_engine(pair.target, pair.drafter)


@pytest.fixture
def heard() -> Listener:
    return Listener()


@pytest.fixture
def loop(engine: Engine, heard: Listener) -> Iterator[EngineLoop]:
    loop = EngineLoop(engine, heard)
    loop.start()
    yield loop
    loop.close(PATIENCE_S)
    assert not loop.alive


def test_requests_from_many_threads(pair: TinyPair, loop: EngineLoop, heard: Listener) -> None:
    threads = [threading.Thread(target=loop.submit, args=(request(i, prompt, 12),)) for i, prompt in enumerate(PROMPTS)]
    for thread in threads:
        thread.start()
    heard.until(*(str(i) for i in range(len(PROMPTS))))
    plain = run(make_engine(pair.target), [request(i, prompt, 12) for i, prompt in enumerate(PROMPTS)])
    for name, chunks in plain.items():
        assert heard.tokens(name) == [token for chunk in chunks for token in chunk.tokens]
        assert sum(chunk.finish is not None for chunk in heard.chunks[name]) == 1
    assert heard.threads == {"engine-tiny"}


def test_a_refusal_reaches_the_caller_and_the_loop_goes_on(loop: EngineLoop, heard: Listener) -> None:
    with pytest.raises(InvalidRequest):
        loop.submit(request("bad", []))
    loop.submit(request("good", PROMPTS[0]))
    heard.until("good")
    assert len(heard.tokens("good")) == 8


def test_cancelling_a_running_request(loop: EngineLoop, heard: Listener) -> None:
    loop.submit(request("x", PROMPTS[0], 200))
    loop.cancel("x")
    loop.cancel("never heard of")
    heard.until("x")
    last = heard.chunks["x"][-1]
    assert last.finish is FinishReason.CANCELLED
    assert last.summary is not None
    loop.submit(request("next", PROMPTS[1]))
    heard.until("next")
    assert loop.snapshot().kv_blocks_used == 0


def test_a_step_that_raises_ends_the_running_requests_only(
    pair: TinyPair, heard: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two fit at once: they end with an error, the third, still queued, and later ones are served."""
    engine = make_engine(pair.target, pair.drafter, max_running_requests=2)
    forward, calls = engine.target.forward, itertools.count()

    def fails_the_third_time(*args: Any) -> Any:
        if next(calls) == 2:
            raise EngineFault("broken on purpose")
        return forward(*args)

    monkeypatch.setattr(engine.target, "forward", fails_the_third_time)
    for i in range(3):
        engine.submit(request(i, PROMPTS[i], 100))
    loop = EngineLoop(engine, heard)
    loop.start()
    try:
        heard.until("0", "1", "2")
        loop.submit(request("later", PROMPTS[3]))
        heard.until("later")
    finally:
        loop.close(PATIENCE_S)
    for name in ("0", "1"):
        last = heard.chunks[name][-1]
        assert last.finish is FinishReason.ERROR
        assert last.error == "engine_fault: a step failed; the request was ended"
        assert last.summary is not None
        assert last.summary.completion_tokens == len(heard.tokens(name)) > 0
    assert heard.chunks["2"][-1].finish is FinishReason.LENGTH
    assert len(heard.tokens("2")) == 100
    assert len(heard.tokens("later")) == 8
    assert loop.snapshot().kv_blocks_used == 0
    assert heard.snapshots[-1].drafter_ready


def test_attaching_a_drafter_while_running(pair: TinyPair, heard: Listener) -> None:
    engine = make_engine(pair.target, pair.drafter)
    engine.drafting.detach()
    loop = EngineLoop(engine, heard)
    assert loop.info.hello is not None
    loop.start()
    try:
        assert not loop.has_drafter
        loop.submit(request("x", PROMPTS[0], 200))
        loop.attach_drafter(in_process_link(engine, pair.drafter))
        assert loop.has_drafter
        heard.until("x")
    finally:
        loop.close(PATIENCE_S)
    summary = heard.chunks["x"][-1].summary
    assert summary is not None
    assert summary.accepted_tokens > 0


def test_a_closed_loop_refuses_commands(engine: Engine, heard: Listener) -> None:
    loop = EngineLoop(engine, heard)
    with pytest.raises(NotReady):
        loop.submit(request("early", PROMPTS[0]))
    loop.start()
    loop.close(PATIENCE_S)
    with pytest.raises(NotReady):
        loop.submit(request("late", PROMPTS[0]))
    loop.close(PATIENCE_S)


def test_a_command_that_meets_the_loops_end_does_not_wait_for_ever(engine: Engine, heard: Listener) -> None:
    """The command is queued while the thread is alive, behind the one that stops it."""
    loop = EngineLoop(engine, heard)
    at_stop, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        at_stop.set()
        go_on.wait(PATIENCE_S)
        raise SystemExit

    loop._inbox.put(hold)
    loop.start()
    at_stop.wait(PATIENCE_S)
    refused: list[BaseException] = []

    def submit() -> None:
        try:
            loop.submit(request("x", PROMPTS[0]))
        except NotReady as error:
            refused.append(error)

    caller = threading.Thread(target=submit, daemon=True)
    caller.start()
    while loop._inbox.empty():
        time.sleep(0.001)
    go_on.set()
    caller.join(PATIENCE_S)
    assert not caller.is_alive()
    assert len(refused) == 1


def test_the_snapshot_follows_the_load(loop: EngineLoop, heard: Listener) -> None:
    for i, prompt in enumerate(PROMPTS):
        loop.submit(request(i, prompt, 12))
    heard.until(*(str(i) for i in range(len(PROMPTS))))
    assert max(s.running_requests for s in heard.snapshots) > 1
    last = heard.snapshots[-1]
    assert (last.running_requests, last.queued_requests, last.queued_tokens, last.kv_blocks_used) == (0, 0, 0, 0)
    assert last.drafter_ready
    assert last.round_s > 0
    assert len(last.acceptance_tokens) == 8
    assert list(last.acceptance_tokens) == sorted(last.acceptance_tokens)
    assert last.acceptance_tokens[0] == 1.0


def test_a_replaced_step_is_measured_again_when_idle(
    pair: TinyPair, heard: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a compiled step takes over: the load that is told from then on has the new curve."""
    target = TargetModel.load(pair.target)
    cheaper = StepCostCurve((1, 8), (0.1, 0.2), "cheaper")
    engine = Engine(target, settings(), CURVE, profile=Profile(lambda: CostModel.given(cheaper), 1))
    loop = EngineLoop(engine, heard)
    loop.start()
    assert loop.snapshot().curve_version == CURVE.version
    monkeypatch.setattr(TargetModel, "step_kind", "faster")
    deadline_s = time.monotonic() + PATIENCE_S
    while loop.snapshot().curve_version != "cheaper" and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert loop.snapshot().step_curve == ((1, 0.1), (8, 0.2))
    loop.submit(request("x", PROMPTS[0]))
    heard.until("x")
    loop.close(PATIENCE_S)


def test_a_measurement_that_fails_leaves_the_old_curve(pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat() -> CostModel:
        raise CurveError("the step-cost curve is flat")

    engine = Engine(TargetModel.load(pair.target), settings(), CURVE, profile=Profile(flat, 1))
    monkeypatch.setattr(TargetModel, "step_kind", "faster")
    assert not engine.renew_costs()
    assert engine.curve is CURVE
