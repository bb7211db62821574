"""Any order of submitting, cancelling, stepping, losing and attaching keeps the engine's books and its outputs."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider.engine import Engine
from outrider.errors import Overloaded
from outrider.link import InProcessLink
from outrider.types import BatchClass, FinishReason, GenerationRequest, TokenChunk
from support.engines import in_process_link, make_engine, request
from support.engines import run as run_to_end
from support.tiny import TinyPair, make_drafter, make_target

VOCAB, CONTEXT, BLOCKS, BLOCK, RUNNING, QUEUED, STEP = 12, 48, 10, 4, 4, 6, 24
CLASSES = (
    BatchClass("balanced"),
    BatchClass("interactive", prefill_share=0.25, co_batch_tokens=16),
    BatchClass("throughput", preemption_order=1),
)
ALIKE = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)
"""Two full blocks and a half that many prompts begin with."""

EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 4, "min_p": 0.05, "logprobs": 2},
    {"repetition_penalty": 1.4, "frequency_penalty": 0.7, "presence_penalty": -0.3},
    {"logit_bias": ((0, 3.0), (5, -1.0)), "min_tokens": 1, "prompt_logprobs": 1},
)


@cache
def tiny() -> TinyPair:
    folder = Path(tempfile.mkdtemp(prefix="outrider-test-"))
    target = make_target(folder / "target", vocab=VOCAB, hidden=16, layers=2, context=CONTEXT, eos=0)
    return TinyPair(target, make_drafter(folder / "drafter", target, gamma=4, layer_ids=(-1, 0)))


@cache
def engines() -> tuple[Engine, Engine]:
    """The engine under test, emptied by each run's teardown, and one that never drafts."""
    pair = tiny()
    sizes = {"kv_blocks": BLOCKS, "block_size": BLOCK, "max_running_requests": RUNNING}
    ours = make_engine(pair.target, pair.drafter, max_queued_requests=QUEUED, max_step_tokens=STEP, **sizes)
    return ours, make_engine(pair.target)


class EngineMachine(RuleBasedStateMachine):
    """Requests are named by a counter; `heard` collects their chunks."""

    @initialize()
    def begin(self) -> None:
        self.engine, self.plain = engines()
        self.engine.reset_memory()
        if not self.engine.drafting.ready:
            self.attach()
        self.asked: dict[str, GenerationRequest] = {}
        self.heard: dict[str, list[TokenChunk]] = {}

    def hear(self, chunks: list[tuple[str, TokenChunk]]) -> None:
        for name, chunk in chunks:
            assert not (self.heard[name] and self.heard[name][-1].finish), "a chunk after the last one"
            self.heard[name].append(chunk)

    def open(self) -> list[str]:
        return [name for name, chunks in self.heard.items() if not chunks or chunks[-1].finish is None]

    @rule(
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=16),
        begins_alike=st.booleans(),
        salt=st.sampled_from(("", "acme")),
        max_tokens=st.integers(1, 14),
        depth_cap=st.sampled_from((None, 0, 2)),
        kind=st.sampled_from(CLASSES),
        temperature=st.sampled_from((0.0, 1.0)),
        ignore_eos=st.booleans(),
        extras=st.sampled_from(EXTRAS),
    )
    def submit(
        self,
        prompt: list[int],
        begins_alike: bool,
        salt: str,
        max_tokens: int,
        depth_cap: int | None,
        kind: BatchClass,
        temperature: float,
        ignore_eos: bool,
        extras: dict[str, Any],
    ) -> None:
        name = str(len(self.asked))
        one = request(
            name, [*ALIKE, *prompt] if begins_alike else prompt, max_tokens, depth_cap=depth_cap, batch_class=kind,
            salt=salt,
            temperature=temperature, seed=len(self.asked), ignore_eos=ignore_eos, **extras,
        )  # fmt: skip
        if len(self.engine.queue) == QUEUED:
            with pytest.raises(Overloaded):
                self.engine.submit(one)
            return
        self.engine.submit(one)
        self.asked[name], self.heard[name] = one, []

    @precondition(lambda self: self.open())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.open()))
        self.hear(self.engine.cancel(name))
        assert self.heard[name][-1].finish is FinishReason.CANCELLED
        assert name not in [s.request.request_id for s in (*self.engine.running, *self.engine.queue)]

    @rule(count=st.integers(1, 4))
    def step(self, count: int) -> None:
        for _ in range(count):
            before = {s.key: s.num_computed for s in self.engine.running}
            busy = not self.engine.idle
            chunks = self.engine.step()
            self.hear(chunks)
            advanced = any(s.num_computed > before.get(s.key, 0) for s in self.engine.running)
            assert not busy or chunks or advanced, "a step did nothing"

    @precondition(lambda self: self.engine.drafting.ready)
    @rule()
    def lose_the_drafter(self) -> None:
        link = self.engine.drafting._link
        assert isinstance(link, InProcessLink)
        link.close()

    @rule()
    def attach(self) -> None:
        self.engine.attach_drafter(in_process_link(self.engine, tiny().drafter))

    @precondition(lambda self: self.engine.running)
    @rule()
    def fail(self) -> None:
        running = [s.request.request_id for s in self.engine.running]
        self.hear(self.engine.fail("engine_fault: on purpose"))
        assert all(self.heard[name][-1].finish is FinishReason.ERROR for name in running)

    @invariant()
    def books_balance(self) -> None:
        engine = self.engine
        engine.check_integrity()
        assert len(engine.running) <= RUNNING
        written = [block for s in engine.running for block in s.blocks[s.num_computed // BLOCK :]]
        assert len(set(written)) == len(written), "two sequences write to one block"
        for sequence in engine.running:
            assert sequence.num_computed < len(sequence.tokens) <= CONTEXT
            assert sequence.num_computed <= len(sequence.slots), "a row was written where nothing is held"
            assert 0 <= sequence.draft_held <= len(sequence.tokens) - 1
            assert not sequence.decoding or sequence.draft_held <= sequence.num_computed
            assert sequence.published <= sequence.num_computed // BLOCK
            assert sequence.remaining > 0
        assert sorted(self.open(), key=int) == sorted(
            (s.request.request_id for s in (*engine.running, *engine.queue)), key=int
        )

    def teardown(self) -> None:
        """Everything ends, memory is empty, and completed outputs are those of an engine that never drafts."""
        if not hasattr(self, "asked"):
            return
        while not self.engine.idle:
            self.hear(self.engine.step())
        assert self.engine.memory.pool.used == 0
        assert not self.open()
        done = [
            one
            for name, one in self.asked.items()
            if self.heard[name][-1].finish in (FinishReason.STOP, FinishReason.LENGTH)
        ]
        for name, chunks in run_to_end(self.plain, done).items():
            expected = [token for chunk in chunks for token in chunk.tokens]
            assert [token for chunk in self.heard[name] for token in chunk.tokens] == expected


EngineMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True, database=None
)
TestEngineMachine = EngineMachine.TestCase
