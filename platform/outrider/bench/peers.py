"""One checkpoint, the same prompts, greedy: this engine beside the loops and servers people would otherwise use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from outrider.bench.decode import PEER, Run, filled, run_engine
from outrider.bench.deepspec import DeepSpecLoop
from outrider.bench.llama import LlamaServer
from outrider.bench.prompts import held_out_prompts
from outrider.bench.reference import Generated, Reference
from outrider.bench.report import Cell, Report, Table
from outrider.bench.setup import UNTRIMMED, Setup
from outrider.bench.spread import Say, Spread, ratios, take_turns
from outrider.bench.ties import Outcome, compare, greedy_gap
from outrider.errors import ConfigurationError
from outrider.local import LinkKind, LocalEngine

__all__ = ["measure_peers"]

COLOCATED, VERIFIED, UNDRAFTED = "colocated", "colocated, all verified", "no drafter"
LOOP, ASSISTED = "DeepSpec's evaluator loop", "transformers, assisted"
_RATES: dict[str, Callable[[Run], float]] = {
    "decode": lambda run: run.decode_rate,
    "request": lambda run: run.whole_rate,
}
Prompts = list[tuple[int, ...]]
Answer = Callable[[Prompts, int], Generated]


def measure_peers(
    setup: Setup,
    *,
    assistant: Path | None,
    llama: Mapping[str, str],
    streams: tuple[int, ...],
    prompts: int,
    max_tokens: int,
    repetitions: int,
    say: Say,
) -> Report:
    """Tokens per second of every arm at each number of streams, our arms' ratios to them, and whose answers differ.

    `assistant` is a smaller target of the same tokenizer for assisted generation, `llama` maps arms' names to URLs of
    running servers. DeepSpec's loop and assisted generation take one prompt at a time and stand beside one stream.
    The report has not passed when an arm in this process differs from the stock model by more than a tie.
    """
    chosen = [p.tokens for p in held_out_prompts(setup.target, prompts, max_tokens=max_tokens, file=setup.held_out)]
    servers = [LlamaServer(name, url) for name, url in llama.items()]
    for server in servers:
        if server.slots < max(streams):
            raise ConfigurationError(f"{server.name}: start it with -np {max(streams)}", param="llama")
    report = Report(
        "peers",
        setup.configuration() | {"assistant": None if assistant is None else assistant.name},
        {"prompts": len(chosen), "max_tokens": max_tokens, "repetitions": repetitions},
        notes=[
            "decode tok/s counts what came after every stream's first tokens; request tok/s includes the prompts",
            f"{LOOP}: re-implemented over transformers' forward and DynamicCache and this repository's eager drafter",
            *(f"{each.name}: {each.build}, seconds by its own clock, HTTP left out" for each in servers),
        ],
    )
    reference = Reference(setup.target, dtype=setup.dtype, device=setup.device)
    with ExitStack() as stack:
        ours = {
            COLOCATED: setup.open(LinkKind.IN_PROCESS, streams=max(streams)),
            VERIFIED: setup.open(LinkKind.IN_PROCESS, streams=max(streams), curve=UNTRIMMED),
            UNDRAFTED: setup.open(LinkKind.IN_PROCESS, streams=max(streams), drafted=False),
        }
        for engine in ours.values():
            stack.enter_context(engine)
        loops = _loops(setup, reference, assistant)
        for count in streams:
            batches = [[prompt] for prompt in chosen] if count == 1 else [filled(chosen, count)]
            arms: dict[str, Callable[[], Run]] = {
                name: partial(_ours, engine, batches, max_tokens) for name, engine in ours.items()
            }
            theirs: dict[str, Answer] = {PEER: reference.greedy} | (loops if count == 1 else {})
            theirs |= {server.name: server.greedy for server in servers}
            arms |= {name: partial(_theirs, answer, batches, max_tokens) for name, answer in theirs.items()}
            label = f"{count} stream{'s' if count > 1 else ''}"
            turns = take_turns(arms, repetitions, lambda line, label=label: say(f"{label}, {line}"))  # type: ignore[misc]
            report.tables += [_speed(label, turns), _sameness(label, turns, batches, reference, report)]
    return report


def _loops(setup: Setup, reference: Reference, assistant: Path | None) -> dict[str, Answer]:
    """The peers that take one prompt at a time."""
    loop = DeepSpecLoop(reference, setup.drafter, dtype=setup.dtype)
    loops: dict[str, Answer] = {LOOP: lambda prompts, max_tokens: loop.greedy(prompts[0], max_tokens)}
    if assistant is not None:
        helper = Reference(assistant, dtype=setup.dtype, device=setup.device)
        loops[ASSISTED] = partial(reference.greedy, assistant=helper)
    return loops


def _ours(local: LocalEngine, batches: list[Prompts], max_tokens: int) -> Run:
    return _whole([run_engine(local, batch, max_tokens, ignore_eos=False) for batch in batches])


def _theirs(answer: Answer, batches: list[Prompts], max_tokens: int) -> Run:
    runs = []
    for batch in batches:
        done = answer(batch, max_tokens)
        tokens = sum(map(len, done.tokens))
        after = max(0, tokens - done.first_tokens)
        answers = tuple(map(tuple, done.tokens))
        runs.append(Run(len(batch), tokens, done.wall_s, after, done.wall_s - done.first_s, done.rounds, (), answers))
    return _whole(runs)


def _whole(runs: list[Run]) -> Run:
    return sum(runs[1:], runs[0])


def _speed(label: str, turns: Mapping[str, list[Run]]) -> Table:
    """Both rates of every arm, and how many times as fast ours are, turn by turn."""
    ours = (COLOCATED, VERIFIED, UNDRAFTED)
    columns = ["arm"]
    for rate in _RATES:
        columns += [f"{rate} tok/s", *(f"{name} ÷ it, {rate}" for name in ours)]
    table = Table(f"speed, {label}", (*columns, "tokens per round"))
    for name, runs in turns.items():
        cells: list[Cell] = [name]
        for of in _RATES.values():
            its = [of(run) for run in runs]
            cells += [Spread.of(its), *(ratios([of(run) for run in turns[each]], its) for each in ours)]
        emitted = [run.emitted_per_round for run in runs if run.emitted_per_round is not None]
        table.add(*cells, Spread.of(emitted) if emitted else None)
    return table


def _sameness(
    label: str, turns: Mapping[str, list[Run]], batches: list[Prompts], reference: Reference, report: Report
) -> Table:
    """How many answers of an arm's last turn equal the stock model's; what does not goes into the report's notes."""
    table = Table(f"answers against {PEER}, {label}", ("arm", "equal", "ties", "different"))
    prompts = [prompt for batch in batches for prompt in batch]
    expected = turns[PEER][-1].answers
    for name, runs in turns.items():
        counts = dict.fromkeys(Outcome, 0)
        for prompt, right, found in zip(prompts, expected, runs[-1].answers, strict=True):

            def gap_at(place: int, prompt: tuple[int, ...] = prompt, right: tuple[int, ...] = right) -> float:
                return greedy_gap(reference.next_logits([*prompt, *right[:place]]))

            outcome = compare(right, found, gap_at)
            counts[outcome.outcome] += 1
            if outcome.outcome is Outcome.MISMATCH:
                gap = f"top-two gap {outcome.gap:.2g}"
                report.notes.append(f"{label}, {name}: an answer differs at token {outcome.position}, {gap}")
        table.add(name, counts[Outcome.EQUAL], counts[Outcome.TIE], counts[Outcome.MISMATCH])
        if name in (COLOCATED, VERIFIED, UNDRAFTED, LOOP, ASSISTED):
            report.passed &= counts[Outcome.MISMATCH] == 0 and counts[Outcome.TIE] <= len(prompts) / 100
    return table
