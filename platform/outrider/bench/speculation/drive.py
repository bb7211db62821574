"""Driving one engine in this thread and keeping what each request's user saw, whether the load waits for answers."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from outrider.bench.goodput import Fate, Outcome
from outrider.engine import Engine
from outrider.errors import OutriderError
from outrider.types import FinishReason, GenerationRequest, RequestSummary, TokenChunk

__all__ = ["Driver", "Run", "closed_loop"]

_FATES = {FinishReason.CANCELLED: Fate.CANCELLED, FinishReason.ERROR: Fate.FAILED}


@dataclass(frozen=True, slots=True)
class Run:
    """One arm under one load. Whoever was not answered counts in `offered`, and with a speed of 0 in `user_rate`.

    tokens: all that users got, in wall_s seconds from the first submission to the last end. user_rate: median over
    users of (tokens − 1) / (end − first token). rounds, gained_tokens, verified_rows: summed over requests' decode
    rounds, a row for the anchor of each. steps, drafted_steps: of the engine, those in which somebody decoded.
    cpu_s: of this process, all its threads.
    """

    offered: int
    answered: int
    tokens: int
    wall_s: float
    user_rate: float
    ttft_p50_s: float | None
    rounds: int
    gained_tokens: int
    verified_rows: int
    steps: int
    drafted_steps: int
    cpu_s: float = 0.0

    @property
    def cpu_rate(self) -> float:
        """Tokens per second of this process's own time: what neighbours take of the wall is not in it."""
        return self.tokens / self.cpu_s

    @property
    def rate(self) -> float:
        """Tokens per second of everybody."""
        return self.tokens / self.wall_s

    @property
    def tokens_per_round(self) -> float | None:
        """What a request gained in a decode round, the bonus token included; None without a round."""
        return self.gained_tokens / self.rounds if self.rounds else None

    @property
    def rows_per_round(self) -> float | None:
        """Verified rows per request and round, anchor included: the verification budget; None without a round."""
        return self.verified_rows / self.rounds if self.rounds else None

    @property
    def drafted_share(self) -> float | None:
        """Share of decoding steps in which somebody was drafted for."""
        return self.drafted_steps / self.steps if self.steps else None


@dataclass(slots=True)
class _Flight:
    """A request between submission and end; seconds of this machine's clock."""

    due_s: float
    first_s: float | None = None
    tokens: int = 0


class Driver:
    """Submits to one engine, steps it, and keeps an outcome for every request it was ever given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flights: dict[str, _Flight] = {}
        self._last = engine.last_times
        self.outcomes: dict[str, Outcome] = {}
        self.summaries: list[RequestSummary] = []
        self.steps = 0
        self.drafted_steps = 0

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._flights)

    def submit(self, request: GenerationRequest, due_s: float) -> None:
        """Hand a request over; its latencies count from due_s. One that is refused has ended."""
        try:
            self._engine.submit(request)
        except OutriderError as error:
            self.outcomes[request.request_id] = Outcome(Fate.REFUSED, reason=error.code)
            return
        self._flights[request.request_id] = _Flight(due_s)

    def step(self) -> None:
        """One round of the engine, or the wait until one is due."""
        time.sleep(self._engine.admission_wait_s)
        self._take(self._engine.step())
        times = self._engine.last_times
        if times is not None and times is not self._last:
            self._last = times
            self.steps += times.requests > 0
            self.drafted_steps += times.requests > 0 and times.draft_s > 0

    def give_up(self) -> None:
        """Cancel whoever has not ended; they count as timed out."""
        for request_id in list(self._flights):
            self._take(self._engine.cancel(request_id), Fate.TIMED_OUT)

    def _take(self, chunks: list[tuple[str, TokenChunk]], cancelled: Fate = Fate.CANCELLED) -> None:
        now_s = time.perf_counter()
        for request_id, chunk in chunks:
            flight = self._flights[request_id]
            flight.tokens += len(chunk.tokens)
            if chunk.tokens and flight.first_s is None:
                flight.first_s = now_s
            if chunk.finish is None:
                continue
            fate = cancelled if chunk.finish is FinishReason.CANCELLED else _FATES.get(chunk.finish, Fate.ANSWERED)
            self.outcomes[request_id] = _outcome(self._flights.pop(request_id), fate, now_s, chunk.error or "")
            if chunk.summary is not None:
                self.summaries.append(chunk.summary)

    def run(self, wall_s: float, cpu_s: float = 0.0) -> Run:
        """What all of it came to."""
        outcomes = list(self.outcomes.values())
        first = [outcome.ttft_s for outcome in outcomes if outcome.ttft_s is not None]
        rounds = sum(summary.rounds for summary in self.summaries)
        return Run(
            offered=len(outcomes),
            answered=sum(outcome.fate is Fate.ANSWERED for outcome in outcomes),
            tokens=sum(outcome.tokens for outcome in outcomes),
            wall_s=wall_s,
            user_rate=_user_rate(outcomes),
            ttft_p50_s=statistics.median(first) if first else None,
            rounds=rounds,
            gained_tokens=sum(max(summary.completion_tokens - 1, 0) for summary in self.summaries),
            verified_rows=rounds + sum(summary.admitted_tokens for summary in self.summaries),
            steps=self.steps,
            drafted_steps=self.drafted_steps,
            cpu_s=cpu_s,
        )


def _outcome(flight: _Flight, fate: Fate, now_s: float, reason: str) -> Outcome:
    first_s, tokens = flight.first_s, flight.tokens
    return Outcome(
        fate,
        tokens,
        ttft_s=None if first_s is None else first_s - flight.due_s,
        tpot_s=None if first_s is None or tokens < 2 else (now_s - first_s) / (tokens - 1),
        e2e_s=now_s - flight.due_s if fate is Fate.ANSWERED else None,
        reason=reason,
    )


def _user_rate(outcomes: Sequence[Outcome]) -> float:
    """Median tokens per second of one user; answers that came in one piece have no speed and are left out."""
    rates = []
    for outcome in outcomes:
        if outcome.fate is not Fate.ANSWERED:
            rates.append(0.0)
        elif outcome.tpot_s:
            rates.append(1 / outcome.tpot_s)
    return statistics.median(rates) if rates else 0.0


def closed_loop(engine: Engine, requests: Sequence[GenerationRequest], concurrency: int) -> Run:
    """Keep `concurrency` requests running until all have ended; the last ones run in thinning company."""
    driver = Driver(engine)
    waiting = deque(requests)
    started, began_s = time.perf_counter(), time.process_time()
    while waiting or driver.in_flight:
        while waiting and driver.in_flight < concurrency:
            driver.submit(waiting.popleft(), time.perf_counter())
        driver.step()
    return driver.run(time.perf_counter() - started, time.process_time() - began_s)
