"""What reusing and sharing memory is worth: the second turn of a conversation, and too little room for everybody."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from outrider.bench.prompts import held_out_prompts
from outrider.bench.report import Report, Table
from outrider.bench.setup import Setup, requests_for
from outrider.bench.spread import Say, Spread, ratios, take_turns
from outrider.engine import EngineSettings
from outrider.local import Completion, LinkKind, LocalEngine
from outrider.types import GenerationRequest, SamplingParams, TokenChunk

__all__ = ["measure_memory"]

_BLOCK = EngineSettings(model="").block_size


@dataclass(frozen=True, slots=True)
class _Turns:
    """Mean TTFT of first and second turns, seconds, and the tokens each second turn took over."""

    first_s: float
    second_s: float
    cached_tokens: float


def measure_memory(
    setup: Setup, *, conversations: int, new_tokens: int, answer_tokens: int, requests: int, repetitions: int, say: Say
) -> Report:
    """TTFT of a second turn with as many new tokens as the first, and `requests` with memory for a quarter of them."""
    parameters = {
        "conversations": conversations, "new_tokens": new_tokens, "answer_tokens": answer_tokens,
        "requests": requests, "repetitions": repetitions, "block_size": _BLOCK,
    }  # fmt: skip
    report = Report("memory", setup.configuration(), parameters)
    report.tables.append(_second_turns(setup, conversations, new_tokens, answer_tokens, repetitions, say))
    table, equal = _pressure(setup, requests, answer_tokens, repetitions, say)
    report.tables.append(table)
    report.passed = equal
    report.notes.append("TTFT is the engine's: from submission to the first token, alone on the engine")
    return report


def _second_turns(
    setup: Setup, conversations: int, new_tokens: int, answer_tokens: int, repetitions: int, say: Say
) -> Table:
    text = [
        token
        for prompt in held_out_prompts(setup.target, None, max_tokens=0, file=setup.held_out)
        for token in prompt.tokens
    ]
    turns = [text[i : i + new_tokens] for i in range(0, len(text) - new_tokens, new_tokens)]
    if len(turns) < 2 * conversations:
        turns *= -(-2 * conversations // len(turns))
    table = Table(
        f"second turn, {new_tokens} new tokens after {new_tokens} and an answer of {answer_tokens}",
        ("arm", "first ms", "second ms", "second ÷ first", "tokens taken over"),
    )
    with (
        setup.open(LinkKind.IN_PROCESS, streams=1, prefix_cache=True) as reusing,
        setup.open(LinkKind.IN_PROCESS, streams=1) as computing,
    ):

        def run(local: LocalEngine, repetition: list[int]) -> _Turns:
            repetition[0] += 1
            salt = f"repetition {repetition[0]}"
            pairs = zip(turns[0::2], turns[1::2], strict=False)
            talks = [_talk(local, salt, a, b, answer_tokens) for a, b in list(pairs)[:conversations]]
            first, second, cached = (sum(part) / len(talks) for part in zip(*talks, strict=True))
            return _Turns(first, second, cached)

        counts = {"prefix cache": [0], "without": [0]}
        arms = {"prefix cache": reusing, "without": computing}
        runs = take_turns(
            {name: lambda name=name: run(arms[name], counts[name]) for name in arms},  # type: ignore[misc]
            repetitions,
            say,
        )
    for name, repeated in runs.items():
        first, second = [r.first_s for r in repeated], [r.second_s for r in repeated]
        table.add(
            name,
            Spread.of([s * 1e3 for s in first]),
            Spread.of([s * 1e3 for s in second]),
            ratios(second, first),
            Spread.of([r.cached_tokens for r in repeated]),
        )
    return table


def _talk(
    local: LocalEngine, salt: str, opening: list[int], reply: list[int], answer_tokens: int
) -> tuple[float, float, float]:
    """(TTFT of the first turn, TTFT of the second, tokens the second took over)."""
    first_s, first = _timed(local, "first", salt, opening, answer_tokens)
    second_s, second = _timed(local, "second", salt, [*opening, *first.tokens, *reply], answer_tokens)
    return first_s, second_s, float(second.summary.cached_tokens if second.summary else 0)


def _timed(local: LocalEngine, name: str, salt: str, prompt: list[int], answer_tokens: int) -> tuple[float, Completion]:
    heard: list[float] = []

    def on_chunk(_: str, __: TokenChunk) -> None:
        heard.append(time.perf_counter())

    sampling = SamplingParams(answer_tokens, temperature=0.0, ignore_eos=True)
    started = time.perf_counter()
    [done] = local.generate([GenerationRequest(name, tuple(prompt), sampling, cache_salt=salt)], on_chunk)
    return heard[0] - started, done


def _pressure(setup: Setup, requests: int, answer_tokens: int, repetitions: int, say: Say) -> tuple[Table, bool]:
    """Seeded and greedy requests side by side; whether both engines gave the same answers every time."""
    prompts = [
        p.tokens for p in held_out_prompts(setup.target, requests, max_tokens=answer_tokens, file=setup.held_out)
    ]
    asked = [
        replace(one, sampling=replace(one.sampling, temperature=float(place % 2)))
        for place, one in enumerate(requests_for(prompts, answer_tokens, seed=20_26, ignore_eos=True))
    ]
    longest = max(len(prompt) for prompt in prompts) + answer_tokens
    quarter = -(-requests // 4) * -(-longest // _BLOCK)
    table = Table(
        f"{requests} requests of {answer_tokens} tokens with blocks for {-(-requests // 4)} of them",
        ("arm", "blocks", "completed", "equal answers", "preemptions", "tok/s", "÷ enough memory"),
    )
    with (
        setup.open(LinkKind.IN_PROCESS, streams=requests) as roomy,
        setup.open(LinkKind.IN_PROCESS, streams=requests, kv_blocks=quarter, prefix_cache=True) as tight,
        setup.open(LinkKind.IN_PROCESS, streams=requests, kv_blocks=quarter) as bare,
    ):
        engines = {"enough memory": roomy, "a quarter": tight, "a quarter, no prefix cache": bare}
        runs = take_turns(
            {name: lambda local=local: _run(local, asked) for name, local in engines.items()},  # type: ignore[misc]
            repetitions,
            say,
        )
    expected = [one.tokens for one in runs["enough memory"][0][1]]
    rates = {name: [rate for rate, _ in repeated] for name, repeated in runs.items()}
    all_equal = True
    for name, repeated in runs.items():
        answers = [[one.tokens for one in done] for _, done in repeated]
        equal = min(sum(a == b for a, b in zip(each, expected, strict=True)) for each in answers)
        all_equal &= equal == requests
        preempted = [float(sum(one.summary.preemptions for one in done if one.summary)) for _, done in repeated]
        table.add(
            name,
            engines[name].engine.memory.pool.total,
            min(sum(len(one.tokens) == answer_tokens for one in done) for _, done in repeated),
            equal,
            Spread.of(preempted),
            Spread.of(rates[name]),
            ratios(rates[name], rates["enough memory"]),
        )
    return table, all_equal


def _run(local: LocalEngine, asked: list[GenerationRequest]) -> tuple[float, list[Completion]]:
    """(output tokens per second, completions)."""
    local.engine.memory.pool.forget()
    started = time.perf_counter()
    done = local.generate(asked)
    return sum(len(one.tokens) for one in done) / (time.perf_counter() - started), done
