"""A drafter process that dies or hangs costs speed, never a token; the next one takes over in the middle.

Only counts are asserted, never seconds. The link waits a minute for its block until the drafter is made to fail, and
half a second from then on, so that a slow machine loses no healthy drafter.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from outrider.errors import LinkError
from outrider.local import LinkKind, LocalEngine
from outrider.types import GenerationRequest, TokenChunk
from support.engines import open_tiny, prompts, request
from support.proposals import Recorder
from support.tiny import TinyPair

VOCAB, TOKENS = 97, 40
PROMPTS = prompts(6, VOCAB, (4, 33, 12))
Chunks = dict[str, list[TokenChunk]]


def asked() -> list[GenerationRequest]:
    kinds: list[dict[str, float]] = [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.8, "top_p": 0.9, "seed": 4}]
    return [request(i, prompt, TOKENS, **kinds[i % 3]) for i, prompt in enumerate(PROMPTS)]


def step(engine: LocalEngine, chunks: Chunks, steps: int = 10_000) -> None:
    while not engine.engine.idle and steps:
        for name, chunk in engine.engine.step():
            chunks.setdefault(name, []).append(chunk)
        steps -= 1


def tokens(chunks: Chunks) -> dict[str, list[int]]:
    return {name: [token for chunk in one for token in chunk.tokens] for name, one in chunks.items()}


def admitted(chunks: Chunks) -> list[list[int]]:
    """Depth of every decode round of each request."""
    summaries = [one[-1].summary for one in chunks.values()]
    return [[depth for depth, _ in summary.round_records] for summary in summaries if summary]


@pytest.fixture(scope="module")
def plain(pair: TinyPair) -> dict[str, list[int]]:
    with open_tiny(pair.target, None) as engine:
        return {one.request_id: one.tokens for one in engine.generate(asked())}


@pytest.fixture
def engine(separated: LocalEngine) -> LocalEngine:
    return separated


def impatient(engine: LocalEngine) -> None:
    drafting: Any = engine.engine.drafting
    drafting._timeout_s = 0.5


def test_a_killed_drafter_is_lost_once_and_the_next_one_takes_over(
    engine: LocalEngine, plain: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(engine.engine, monkeypatch)
    chunks: Chunks = {}
    for one in asked():
        engine.engine.submit(one)
    step(engine, chunks, 3)
    assert recorder.asked > 0
    impatient(engine)
    engine.kill_drafter()
    before = recorder.asked
    step(engine, chunks, 4)
    assert engine.engine.drafting.lost == 1
    assert not engine.engine.drafting.ready
    assert recorder.asked == before + 1, "one round waited; the others did not even ask"
    assert engine.engine.snapshot().drafter_ready is False
    depths = [[depth for depth, _ in s.rounds] for s in engine.engine.running]
    assert depths
    assert all(rounds[-4:] == [0, 0, 0, 0] for rounds in depths)

    drafting: Any = engine.engine.drafting
    drafting._timeout_s = 60.0
    seen = len(recorder.seen)
    engine.attach_drafter()
    step(engine, chunks)
    assert not any(proposal.missing for proposal in recorder.seen[seen:])
    assert tokens(chunks) == plain
    assert engine.engine.drafting.lost == 1
    assert all(max(rounds[7:]) > 0 for rounds in admitted(chunks) if len(rounds) > 9)
    late = [s.round_records[7:] for s in (one[-1].summary for one in chunks.values()) if s]
    assert sum(count for rounds in late for _, count in rounds) > 0


def test_a_hanging_drafter_is_lost_once_and_its_late_answer_changes_nothing(
    engine: LocalEngine, plain: dict[str, list[int]]
) -> None:
    process: Any = engine._process
    chunks: Chunks = {}
    for one in asked():
        engine.engine.submit(one)
    step(engine, chunks, 3)
    impatient(engine)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        step(engine, chunks, 2)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert engine.engine.drafting.lost == 1
    step(engine, chunks)
    assert tokens(chunks) == plain
    assert engine.engine.drafting.lost == 1
    assert engine.engine.memory.pool.used == 0


def test_a_drafter_that_does_not_start_says_so(pair: TinyPair, tmp_path: Any) -> None:
    with open_tiny(pair.target, pair.drafter) as engine:
        unopened: Any = engine
        unopened._link, unopened._drafter = LinkKind.PROCESS, tmp_path / "absent"
        with pytest.raises(LinkError, match="ended before it was ready"):
            engine.attach_drafter()
        [done] = engine.generate(asked()[:1])
        assert len(done.tokens) == TOKENS
