"""The thread that owns an engine, and the only way other threads speak to it."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from outrider.engine.engine import Chunks, Engine
from outrider.errors import NotReady, OutOfBlocks, OutriderError
from outrider.link import DraftLink, TargetHello
from outrider.types import GenerationRequest, LoadSnapshot

__all__ = ["EngineLoop", "TargetInfo"]

_log = logging.getLogger(__name__)

_ALIVE_CHECK_S = 1.0
"""How long a command waits before it asks whether the engine thread, which may be closing, still lives."""

_IDLE_CHECK_S = 1.0
"""How often an idle engine looks whether its step has been replaced."""

OnRound = Callable[[Chunks, LoadSnapshot], None]


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What others may know of the target; `hello` opens a draft link, None when it has no drafter configured."""

    model: str
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...]
    hello: TargetHello | None


class EngineLoop:
    """Runs steps while there is work and sleeps otherwise.

    Commands are handed over in order and carried out between steps, so a cancellation takes effect within one round.
    `on_round` is called on the engine thread with the chunks of every step; it must not block.
    """

    def __init__(self, engine: Engine, on_round: OnRound) -> None:
        self._engine = engine
        self._on_round = on_round
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._snapshot = engine.snapshot()
        self._thread = threading.Thread(target=self._run, name=f"engine-{engine.settings.model}", daemon=True)
        projection = engine.target.projection
        hello = None
        if projection is not None:
            hello = TargetHello(
                model=engine.settings.model,
                vocab_size=engine.target.vocab_size,
                hidden_size=engine.target.hidden_size,
                projection_fingerprint=projection.fingerprint,
            )
        self.info = TargetInfo(
            engine.settings.model,
            engine.target.vocab_size,
            self._snapshot.context_tokens,
            engine.target.eos_token_ids,
            hello,
        )

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the engine thread runs."""
        return self._thread.is_alive()

    @property
    def has_drafter(self) -> bool:
        """Whether rounds are drafted at present."""
        return self._snapshot.drafter_ready

    def snapshot(self) -> LoadSnapshot:
        """The load after the newest step or command."""
        return self._snapshot

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; raises what `Engine.submit` raises, or NotReady when the loop is closed.

        A constraint is compiled here, on the caller's thread: rounds do not wait for it.
        """
        self._engine.prepare(request)
        self._call(lambda: self._engine.submit(request))

    def cancel(self, request_id: str) -> None:
        """End a request before the next round. Does not wait."""
        self._inbox.put(lambda: self._publish(self._engine.cancel(request_id)))

    def attach_drafter(self, link: DraftLink) -> None:
        """Draft through `link` from the next round on."""
        self._call(lambda: self._engine.attach_drafter(link))

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop after the step in progress; running requests are left without a last chunk."""
        self._inbox.put(self._stop)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _stop(self) -> None:
        self._stopping = True

    def _call(self, command: Callable[[], None]) -> None:
        """Carry out `command` on the engine thread and wait for its result."""
        done: Future[None] = Future()

        def carry_out() -> None:
            try:
                command()
            except Exception as error:
                done.set_exception(error)
            else:
                self._snapshot = self._engine.snapshot()
                done.set_result(None)

        if self._stopping or not self._thread.is_alive():
            raise NotReady(f"the engine of {self.info.model} is not running", retry_after_s=1.0)
        self._inbox.put(carry_out)
        while not wait((done,), timeout=_ALIVE_CHECK_S).done:
            if not self._thread.is_alive() and not done.done():
                raise NotReady(f"the engine of {self.info.model} stopped", retry_after_s=1.0)
        done.result()

    def _publish(self, chunks: Chunks) -> None:
        self._snapshot = self._engine.snapshot()
        if chunks:
            self._on_round(chunks, self._snapshot)

    def _run(self) -> None:
        while not self._stopping:
            self._take_commands()
            if self._stopping or self._engine.idle:
                continue
            try:
                chunks = self._engine.step()
            except Exception as error:
                _log.exception("a step of %s failed", self.info.model)
                code = error.code if isinstance(error, OutriderError) else "engine_fault"
                chunks = self._engine.fail(f"{code}: a step failed; the request was ended")
            self._publish(chunks)
        self._engine.drafting.detach()

    def _use_idle_time(self) -> None:
        """Measure a step that was replaced; check that nothing is held. Memory that lost count is not served from."""
        if self._engine.renew_costs():
            self._snapshot = self._engine.snapshot()
        try:
            self._engine.check_integrity()
        except OutOfBlocks:
            _log.exception("the memory of %s was out of balance and is counted anew", self.info.model)
            self._engine.reset_memory()

    def _take_commands(self) -> None:
        """Carry out waiting commands; sleep for one when the engine is idle or waits for company."""
        if self._engine.idle:
            self._use_idle_time()
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=_IDLE_CHECK_S)()
        elif (wait_s := self._engine.admission_wait_s) > 0:
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=wait_s)()
        while not self._inbox.empty():
            self._inbox.get()()
