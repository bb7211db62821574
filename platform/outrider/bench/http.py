"""The price of the front: streaming over HTTP against the same engine driven in this process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from outrider.bench.client import StreamClient, Streamed
from outrider.bench.decode import run_engine
from outrider.bench.prompts import Prompt, held_out_prompts
from outrider.bench.report import Report, Table
from outrider.bench.setup import Setup
from outrider.bench.spread import Say, Spread, ratios, take_turns
from outrider.errors import ConfigurationError
from outrider.local import LinkKind

__all__ = ["measure_http", "own_server"]

_START_S = 300.0
_STOP_S = 60.0


def measure_http(
    setup: Setup,
    *,
    url: str,
    key: str,
    model: str,
    streams: int,
    max_tokens: int,
    repetitions: int,
    idle_requests: int,
    say: Say,
) -> Report:
    """Tokens per second at `streams` streams and added time to first token when idle, served against in process.

    The arms take turns, so the server idles while the engine here runs. Both draft in a process of their own.
    """
    chosen = held_out_prompts(setup.target, max(streams, idle_requests), max_tokens=max_tokens, file=setup.held_out)
    configuration = setup.configuration()
    batch = [chosen[place % len(chosen)] for place in range(streams)]
    served = {"model": model, "temperature": 0, "ignore_eos": True}
    with ExitStack() as stack:
        local = stack.enter_context(setup.open(LinkKind.PROCESS, streams=streams, prefix_cache=True))
        runner = stack.enter_context(asyncio.Runner())
        client = StreamClient(url, key)
        stack.callback(lambda: runner.run(client.close()))

        def over_http(prompts: list[Prompt], tokens: int) -> tuple[float, list[Streamed]]:
            return runner.run(_stream_all(client, {**served, "max_tokens": tokens}, prompts))

        def http_rate() -> float:
            wall_s, answers = over_http(batch, max_tokens)
            return sum(answer.completion_tokens for answer in answers) / wall_s

        def engine_rate() -> float:
            return run_engine(local, [p.tokens for p in batch], max_tokens, ignore_eos=True).whole_rate

        rates = take_turns({"HTTP": http_rate, "in process": engine_rate}, repetitions, say)
        added = []
        for place, prompt in enumerate(chosen[:idle_requests]):
            say(f"time to first token, idle: {place + 1} of {min(idle_requests, len(chosen))}")
            answer = over_http([prompt], 2)[1][0]
            run = run_engine(local, [prompt.tokens], 2, ignore_eos=True)
            added.append((answer.first_s or answer.wall_s, run.first_s))
    speed = Table(f"streaming, {streams} streams", ("arm", "tok/s", "÷ in process"))
    for arm, values in rates.items():
        speed.add(arm, Spread.of(values), ratios(values, rates["in process"]))
    first = Table("time to first token, idle, one request at a time", ("arm", "ms"))
    first.add("HTTP", Spread.of([served_s * 1e3 for served_s, _ in added]))
    first.add("in process", Spread.of([local_s * 1e3 for _, local_s in added]))
    first.add("added, request by request", Spread.of([(served_s - local_s) * 1e3 for served_s, local_s in added]))
    parameters: dict[str, Any] = {"model": model, "streams": streams, "max_tokens": max_tokens, "client": "httpx"}
    return Report("http", configuration, parameters | {"repetitions": repetitions}, [speed, first])


async def _stream_all(
    client: StreamClient, body: dict[str, Any], prompts: list[Prompt]
) -> tuple[float, list[Streamed]]:
    """All prompts at once; seconds from the first request to the last byte."""
    started = time.perf_counter()
    answers = await asyncio.gather(*(client.chat({**body, "messages": list(p.messages)}) for p in prompts))
    return time.perf_counter() - started, list(answers)


@contextmanager
def own_server(say: Say) -> Iterator[str]:
    """`make serve` on a free port, until the block ends; yields its URL. Raises ConfigurationError when it fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    server = subprocess.Popen(
        [sys.executable, "-m", "outrider_deployments.serve_local", "--host", "127.0.0.1", "--port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        _await_health(url, server, say)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _await_health(url: str, server: subprocess.Popen[bytes], say: Say) -> None:
    started = time.monotonic()
    while time.monotonic() - started < _START_S:
        say(f"starting the platform: {time.monotonic() - started:.0f} s")
        if server.poll() is not None:
            raise ConfigurationError(f"the platform did not start: it ended with status {server.returncode}")
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise ConfigurationError(f"the platform was not healthy within {_START_S:.0f} s")
