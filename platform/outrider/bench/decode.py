"""Decoding speed: separated, colocated and undrafted engines and `transformers.generate`, taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from outrider.bench.prompts import held_out_prompts
from outrider.bench.reference import Reference
from outrider.bench.report import Report, Table
from outrider.bench.setup import Setup, requests_for
from outrider.bench.spread import Say, Spread, ratios, take_turns
from outrider.engine import RoundTimes
from outrider.local import LinkKind, LocalEngine
from outrider.types import TokenChunk

__all__ = ["PEER", "Run", "filled", "measure_decode", "run_engine"]

PEER = "transformers.generate"


@dataclass(frozen=True, slots=True)
class Run:
    """One repetition of one arm: tokens and seconds, of it what came after every stream's first token, and rounds.

    answers: the tokens, request by request.
    """

    requests: int
    tokens: int
    wall_s: float
    decode_tokens: int
    decode_s: float
    decode_rounds: int = 0
    times: tuple[RoundTimes, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()

    @property
    def first_s(self) -> float:
        """Seconds until every stream had its first token."""
        return self.wall_s - self.decode_s

    @property
    def whole_rate(self) -> float:
        """Output tokens per second, prompts included in the time."""
        return self.tokens / self.wall_s

    @property
    def emitted_per_round(self) -> float | None:
        """Mean tokens a request gained in a decode round; the first token of a request comes from its prompt."""
        return (self.tokens - self.requests) / self.decode_rounds if self.decode_rounds else None

    @property
    def decode_rate(self) -> float:
        """Output tokens per second after every stream had its first."""
        return self.decode_tokens / self.decode_s

    def __add__(self, other: Run) -> Run:
        return Run(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.wall_s + other.wall_s,
            self.decode_tokens + other.decode_tokens,
            self.decode_s + other.decode_s,
            self.decode_rounds + other.decode_rounds,
            self.times + other.times,
            self.answers + other.answers,
        )


def measure_decode(
    setup: Setup,
    *,
    streams: tuple[int, ...],
    prompts: int,
    max_tokens: int,
    repetitions: int,
    ignore_eos: bool,
    say: Say,
) -> Report:
    """Tokens per second of every arm at each number of streams, ratios to the peer, and where a round's time goes.

    With one stream a repetition answers `prompts` of them one after another; with n > 1, n at once. All arms answer
    the same prompts with the same number of torch threads in each of their processes. Answers end where the model ends
    them, the same in every arm; under `ignore_eos` all have `max_tokens`, mostly text that no model was trained on
    and no drafter foresees.
    """
    most = max(prompts, *streams)
    chosen = [p.tokens for p in held_out_prompts(setup.target, most, max_tokens=max_tokens, file=setup.held_out)]
    configuration = setup.configuration()
    report = Report(
        "decode",
        configuration,
        {"prompts": prompts, "max_tokens": max_tokens, "repetitions": repetitions, "ignore_eos": ignore_eos},
        notes=[
            "decode tok/s counts what came after every stream's first token; request tok/s includes the prompts",
            "a padded batch runs until its longest answer has ended; only tokens of answers count, in every arm",
        ],
    )
    with ExitStack() as stack:
        engines = {
            "separated": stack.enter_context(setup.open(LinkKind.PROCESS, streams=max(streams))),
            "colocated": stack.enter_context(setup.open(LinkKind.IN_PROCESS, streams=max(streams))),
            "no drafter": stack.enter_context(setup.open(LinkKind.IN_PROCESS, streams=max(streams), drafted=False)),
        }
        reference = Reference(setup.target, dtype=setup.dtype, device=setup.device)
        for count in streams:
            batches = [[prompt] for prompt in chosen[:prompts]] if count == 1 else [filled(chosen, count)]
            arms: dict[str, Callable[[], Run]] = {
                name: partial(_engine_run, engine, batches, max_tokens, ignore_eos) for name, engine in engines.items()
            }
            arms[PEER] = partial(_reference_run, reference, batches, max_tokens, ignore_eos)
            label = f"{count} stream{'s' if count > 1 else ''}"
            runs = take_turns(arms, repetitions, lambda line, label=label: say(f"{label}, {line}"))  # type: ignore[misc]
            report.tables += [_speed_table(label, runs), _round_table(label, runs)]
    return report


def filled(prompts: list[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    """Exactly `count` prompts, repeated in turn where there are fewer."""
    return [prompts[place % len(prompts)] for place in range(count)]


def _engine_run(local: LocalEngine, batches: list[list[tuple[int, ...]]], max_tokens: int, ignore_eos: bool) -> Run:
    runs = [run_engine(local, batch, max_tokens, ignore_eos=ignore_eos) for batch in batches]
    return sum(runs[1:], runs[0])


def run_engine(local: LocalEngine, prompts: list[tuple[int, ...]], max_tokens: int, *, ignore_eos: bool) -> Run:
    """Answer the prompts at once, greedily, and time it from the first submission."""
    requests = requests_for(prompts, max_tokens, ignore_eos=ignore_eos)
    waiting = {request.request_id for request in requests}
    before, first_at, times = 0, 0.0, list[RoundTimes]()

    def on_chunk(request_id: str, chunk: TokenChunk) -> None:
        nonlocal before, first_at
        if waiting:
            before += len(chunk.tokens)
            waiting.discard(request_id)
            first_at = time.perf_counter()
        elif local.engine.last_times is not None and (not times or times[-1] is not local.engine.last_times):
            times.append(local.engine.last_times)

    started = time.perf_counter()
    done = local.generate(requests, on_chunk)
    ended = time.perf_counter()
    tokens = sum(len(completion.tokens) for completion in done)
    rounds = sum(completion.summary.rounds for completion in done if completion.summary is not None)
    answers = tuple(tuple(completion.tokens) for completion in done)
    return Run(len(done), tokens, ended - started, tokens - before, ended - first_at, rounds, tuple(times), answers)


def _reference_run(
    reference: Reference, batches: list[list[tuple[int, ...]]], max_tokens: int, ignore_eos: bool
) -> Run:
    runs = []
    for batch in batches:
        done = reference.greedy(batch, max_tokens, ignore_eos=ignore_eos)
        tokens = sum(map(len, done.tokens))
        runs.append(Run(len(batch), tokens, done.wall_s, tokens - len(batch), done.wall_s - done.first_s))
    return sum(runs[1:], runs[0])


def _speed_table(label: str, runs: dict[str, list[Run]]) -> Table:
    columns = ("arm", "decode tok/s", f"÷ {PEER}", "request tok/s", f"÷ {PEER}, requests", "tokens per round")
    table = Table(f"speed, {label}", columns)
    peer = runs[PEER]
    for name, repeated in runs.items():
        decode, whole = [run.decode_rate for run in repeated], [run.whole_rate for run in repeated]
        emitted = [run.emitted_per_round for run in repeated if run.emitted_per_round is not None]
        table.add(
            name,
            Spread.of(decode),
            ratios(decode, [run.decode_rate for run in peer]),
            Spread.of(whole),
            ratios(whole, [run.whole_rate for run in peer]),
            Spread.of(emitted) if emitted else None,
        )
    return table


def _round_table(label: str, runs: dict[str, list[Run]]) -> Table:
    """Milliseconds of a mean round by phase, and how many tokens the target ran in it."""
    columns = ("arm", "draft ms", "schedule ms", "run ms", "commit ms", "verified tokens", "requests")
    table = Table(f"a mean round, {label}", columns)
    for name, repeated in runs.items():
        timed = [run.times for run in repeated if run.times]
        if not timed:
            continue

        def mean(of: Callable[[RoundTimes], float], timed: list[tuple[RoundTimes, ...]] = timed) -> Spread:
            return Spread.of([sum(map(of, times)) / len(times) for times in timed])

        table.add(
            name,
            mean(lambda t: t.draft_s * 1e3),
            mean(lambda t: t.schedule_s * 1e3),
            mean(lambda t: t.run_s * 1e3),
            mean(lambda t: t.commit_s * 1e3),
            mean(lambda t: t.tokens),
            mean(lambda t: t.requests),
        )
    return table
