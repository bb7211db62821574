"""What a round is made of, at one stream and at many: both models' forwards, and everything else."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from outrider.bench.flame import Sampler, write_flame
from outrider.bench.parts import FORWARDS, PARTS, Stopwatch, watched
from outrider.bench.prompts import held_out_prompts
from outrider.bench.report import Report, Table
from outrider.bench.setup import UNTRIMMED, Setup, requests_for
from outrider.bench.spread import Say, Spread, take_turns
from outrider.local import LinkKind, LocalEngine
from outrider.text import TextModel

__all__ = ["measure_round"]

Rounds = list[dict[str, float]]


def measure_round(
    setup: Setup,
    *,
    streams: tuple[int, ...],
    max_tokens: int,
    repetitions: int,
    flame: Path | None,
    say: Say,
    temperature: float = 0.0,
) -> Report:
    """Milliseconds by part of the rounds in which every stream decodes, arms in turn, and the share beside forwards.

    Arms: no drafter; drafted as the engine plans on this machine, with the drafter in this process and in one of its
    own; drafted with everything verified. `flame` takes samples of one more repetition of each arm and draws them.
    """
    most = max(streams)
    chosen = [p.tokens for p in held_out_prompts(setup.target, most, max_tokens=max_tokens, file=setup.held_out)]
    text = TextModel.load(setup.target)
    report = Report(
        "round",
        setup.configuration(),
        {"max_tokens": max_tokens, "repetitions": repetitions, "temperature": temperature},
        notes=[
            "a part's time is its own, without the parts inside it; a cell is the median round of a repetition",
            "separated: what the drafter's process reports counts as its forward, its server included",
            "share: all seconds but both forwards' ÷ all seconds of the rounds of a repetition",
        ],
    )
    with ExitStack() as stack:
        open_ = partial(setup.open, streams=most)
        engines = {
            "depth 0": stack.enter_context(open_(LinkKind.IN_PROCESS, drafted=False)),
            "colocated": stack.enter_context(open_(LinkKind.IN_PROCESS)),
            "separated": stack.enter_context(open_(LinkKind.PROCESS)),
            "colocated, all verified": stack.enter_context(open_(LinkKind.IN_PROCESS, curve=UNTRIMMED)),
        }
        sampler = Sampler()
        for count in streams:
            prompts = [chosen[place % len(chosen)] for place in range(count)]
            arms: dict[str, Callable[[], Rounds]] = {
                name: partial(_rounds, engine, prompts, max_tokens, temperature, text)
                for name, engine in engines.items()
            }
            label = f"{count} stream{'s' if count > 1 else ''}"
            runs = take_turns(arms, repetitions, lambda line, label=label: say(f"{label}, {line}"))  # type: ignore[misc]
            report.tables.append(_table(f"own ms of a round, {label}", runs))
            if flame is not None:
                for name, run in arms.items():
                    say(f"{label}, {name}: sampling")
                    with sampler.sampling(f"{label}, {name}"):
                        run()
    if flame is not None:
        write_flame(flame, sampler.stacks, "rounds of outrider's engine, samples of the engine's thread")
    return report


def _rounds(
    local: LocalEngine, prompts: list[tuple[int, ...]], max_tokens: int, temperature: float, text: TextModel
) -> Rounds:
    """Seconds by part of every round that all prompts decode in."""
    engine = local.engine
    requests = requests_for(prompts, max_tokens, temperature=temperature, ignore_eos=True)
    detokenizers = {request.request_id: text.detokenizer() for request in requests}

    def deliver(watch: Stopwatch) -> Callable[..., None]:
        def push(chunks: list[tuple[str, tuple[int, ...]]]) -> None:
            for request_id, tokens in chunks:
                detokenizers[request_id].push(tokens)

        return watch.timed("detokenising", push)

    with watched(local) as watch:
        push = deliver(watch)
        for request in requests:
            engine.submit(request)
        rounds = []
        while not engine.idle:
            if engine.admission_wait_s > 0:
                continue
            watch.take()
            whole = len(engine.running) == len(prompts) and all(sequence.decoding for sequence in engine.running)
            chunks = engine.step()
            engine.snapshot()
            push([(request_id, chunk.tokens) for request_id, chunk in chunks])
            if whole:
                rounds.append(watch.take())
    return rounds


def _table(title: str, runs: dict[str, list[Rounds]]) -> Table:
    table = Table(title, ("arm", "round", *PARTS, "share beside forwards", "rounds drafted"))
    for name, repetitions in runs.items():
        cells = [
            Spread.of([statistics.median(take(one) for one in rounds) * 1e3 for rounds in repetitions])
            for take in (_total, *(_part(part) for part in PARTS))
        ]
        drafted = Spread.of(
            [
                sum(one["drafter's server"] + one["drafter forward"] > 0 for one in rounds) / len(rounds)
                for rounds in repetitions
            ]
        )
        table.add(name, *cells, Spread.of([_share(rounds) for rounds in repetitions]), drafted)
    return table


def _total(one: dict[str, float]) -> float:
    return sum(one.values())


def _part(part: str) -> Callable[[dict[str, float]], float]:
    return lambda one: one[part]


def _share(rounds: Rounds) -> float:
    """Of all seconds, those beside the forwards."""
    whole = sum(map(_total, rounds))
    return 1 - sum(one[part] for one in rounds for part in FORWARDS) / whole
