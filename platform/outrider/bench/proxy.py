"""What each layer adds to a stream: this gateway over its engine, and another proxy over this gateway."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from outrider.bench.client import StreamClient
from outrider.bench.decode import filled
from outrider.bench.prompts import Prompt, held_out_prompts
from outrider.bench.report import Report, Table
from outrider.bench.setup import Setup, requests_for
from outrider.bench.spread import Say, Spread, take_turns
from outrider.local import LinkKind, LocalEngine
from outrider.types import TokenChunk

__all__ = ["Endpoint", "measure_proxy"]

ENGINE, GATEWAY, PROXY = "engine, in process", "gateway", "proxy, in front of it"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model answers: base URL, key, and the name it goes by there."""

    url: str
    key: str
    model: str


@dataclass(frozen=True, slots=True)
class _Times:
    """Medians over the streams of one repetition, seconds from the start of all of them."""

    first_s: float
    whole_s: float


def measure_proxy(
    setup: Setup,
    *,
    gateway: Endpoint,
    proxy: Endpoint,
    streams: int,
    max_tokens: int,
    repetitions: int,
    say: Say,
) -> Report:
    """Time to first text and to the end of `streams` streams at once, and what each layer adds to them.

    Added is a difference of medians within one turn: gateway − engine, and proxy − gateway. The engine here runs the
    same model and drafts in a process of its own, as the served one does; one client drives both endpoints.
    """
    chosen = held_out_prompts(setup.target, streams, max_tokens=max_tokens, file=setup.held_out)
    batch = [chosen[place % len(chosen)] for place in range(streams)]
    tokens = filled([prompt.tokens for prompt in chosen], streams)
    with ExitStack() as stack:
        local = stack.enter_context(setup.open(LinkKind.PROCESS, streams=streams, prefix_cache=True))
        runner = stack.enter_context(asyncio.Runner())

        def served(endpoint: Endpoint) -> Callable[[], _Times]:
            client = StreamClient(endpoint.url, endpoint.key)
            stack.callback(lambda: runner.run(client.close()))
            body = {"model": endpoint.model, "temperature": 0, "max_tokens": max_tokens}
            return lambda: runner.run(_over_http(client, body, batch))

        arms = {
            ENGINE: lambda: _in_process(local, tokens, max_tokens),
            GATEWAY: served(gateway),
            PROXY: served(proxy),
        }
        runs = take_turns(arms, repetitions, say)
    parameters: dict[str, Any] = {"streams": streams, "max_tokens": max_tokens, "repetitions": repetitions}
    report = Report("proxy", setup.configuration(), parameters | {"client": "httpx", "model": gateway.model})
    report.tables = [_table(title, of, runs) for title, of in (("first text", _first), ("whole answer", _whole))]
    return report


def _first(times: _Times) -> float:
    return times.first_s


def _whole(times: _Times) -> float:
    return times.whole_s


def _table(title: str, of: Callable[[_Times], float], runs: dict[str, list[_Times]]) -> Table:
    """Milliseconds of each arm, what it adds to the one before it, and the gateway's share of the proxy's addition."""
    table = Table(f"{title}, median of the streams", ("arm", "ms", "added ms"))
    values = {arm: [of(times) * 1e3 for times in repeated] for arm, repeated in runs.items()}
    added = {
        arm: [above - below for above, below in zip(values[arm], values[under], strict=True)]
        for arm, under in ((GATEWAY, ENGINE), (PROXY, GATEWAY))
    }
    for arm, each in values.items():
        table.add(arm, Spread.of(each), Spread.of(added[arm]) if arm in added else None)
    ours, theirs = (statistics.median(added[arm]) for arm in (GATEWAY, PROXY))
    table.add("gateway's added ÷ proxy's added, of the medians", None, ours / theirs if theirs > 0 else None)
    return table


async def _over_http(client: StreamClient, body: dict[str, Any], prompts: list[Prompt]) -> _Times:
    answers = await asyncio.gather(*(client.chat({**body, "messages": list(each.messages)}) for each in prompts))
    firsts = [answer.first_s if answer.first_s is not None else answer.wall_s for answer in answers]
    return _Times(statistics.median(firsts), statistics.median(answer.wall_s for answer in answers))


def _in_process(local: LocalEngine, prompts: list[tuple[int, ...]], max_tokens: int) -> _Times:
    first: dict[str, float] = {}
    last: dict[str, float] = {}

    def on_chunk(request_id: str, chunk: TokenChunk) -> None:
        now = time.perf_counter()
        first.setdefault(request_id, now)
        last[request_id] = now

    started = time.perf_counter()
    local.generate(requests_for(prompts, max_tokens, ignore_eos=False), on_chunk)
    return _Times(statistics.median(first.values()) - started, statistics.median(last.values()) - started)
