"""A scenario as requests, and requests as what became of them. Who asks what, and when, is a function of the seed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from outrider import demo_models
from outrider.bench.client import Leave, StreamClient, Streamed
from outrider.bench.goodput import Fate, Outcome
from outrider.documents import unknown
from outrider.errors import ConfigurationError
from scenario import Scenario, TrafficClass

__all__ = ["Level", "Request", "Seen", "clients_of", "drive", "requests_of"]

Messages = list[dict[str, str]]
_PAUSE_S = 0.1  # a refusing server is asked again by a closed loop's user, not hammered


@dataclass(frozen=True, slots=True)
class Request:
    """One request before it is sent. leave: when its client goes away, if it does."""

    traffic: str
    body: Mapping[str, Any]
    leave: Leave | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One counted request. late_s: from when it was due until the driver sent it; part of what its client waited."""

    traffic: str
    late_s: float
    streamed: Streamed

    @property
    def outcome(self) -> Outcome:
        """Times from when the request was due; e2e_s only of an answer that came to its end."""
        streamed = self.streamed
        return Outcome(
            streamed.fate,
            streamed.completion_tokens,
            None if streamed.first_s is None else self.late_s + streamed.first_s,
            streamed.tpot_s,
            self.late_s + streamed.wall_s if streamed.fate is Fate.ANSWERED else None,
            streamed.reason,
            streamed.decision.get("model", ""),
        )


@dataclass(slots=True)
class Level:
    """One load, once: every request that was due in the counted time, and how long until the last of them had ended."""

    seen: list[Seen] = field(default_factory=list)
    counted_s: float = 0.0

    def of(self, traffic: str) -> Level:
        """The same level as one class saw it."""
        return replace(self, seen=[each for each in self.seen if each.traffic == traffic])


def requests_of(scenario: Scenario, seed: int) -> Iterator[Request]:
    """Requests without end: classes by weight, each class's prompts shuffled and in turn.

    Raises ConfigurationError for domains without a held-out prompt.
    """
    random = np.random.default_rng([seed, 1])
    prompts = {name: _prompts(name, traffic, random) for name, traffic in scenario.classes.items()}
    return _requests(scenario, prompts, random)


@asynccontextmanager
async def clients_of(scenario: Scenario, url: str, key: str) -> AsyncGenerator[dict[str, StreamClient], None]:
    """One client for each class, by its name; key: of the classes that have none of their own."""
    async with AsyncExitStack() as stack:
        clients = {}
        for name, traffic in scenario.classes.items():
            client = StreamClient(url, traffic.key_or(key), timeout_s=scenario.timeout_s)
            clients[name] = await stack.enter_async_context(client)
        yield clients


async def drive(clients: Mapping[str, StreamClient], scenario: Scenario, load: float, seed: int) -> Level:
    """Drive one load to its end; `clients` by class. Requests that were due in the warm-up are not counted."""
    requests = requests_of(scenario, seed)
    began = time.perf_counter() + scenario.warm_up_s
    level = Level()

    async def ask(request: Request, due: float) -> Streamed:
        late_s = time.perf_counter() - due
        streamed = await clients[request.traffic].ask(request.body, request.leave)
        if due >= began:
            level.seen.append(Seen(request.traffic, late_s, streamed))
            level.counted_s = time.perf_counter() - began
        return streamed

    async def user() -> None:
        while (now := time.perf_counter()) < began + scenario.duration_s:
            if (await ask(next(requests), now)).fate in (Fate.REFUSED, Fate.FAILED):
                await asyncio.sleep(_PAUSE_S)

    async with asyncio.TaskGroup() as group:
        if scenario.arrivals.open:
            random = np.random.default_rng([seed, 2])
            for due_s in scenario.arrivals.due_s(load, scenario.warm_up_s, scenario.duration_s, random):
                due = began + float(due_s)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(ask(next(requests), due))
        else:
            for _ in range(int(load)):
                group.create_task(user())
    level.counted_s = max(level.counted_s, scenario.duration_s)
    return level


def _requests(
    scenario: Scenario, prompts: Mapping[str, Iterator[Messages]], random: np.random.Generator
) -> Iterator[Request]:
    names = list(scenario.classes)
    weights = np.asarray([scenario.classes[name].weight for name in names])
    while True:
        name = names[random.choice(len(names), p=weights / weights.sum())]
        traffic = scenario.classes[name]
        leaves = traffic.cancel is not None and random.random() < traffic.cancel.share
        body = {**traffic.whole_body, "messages": next(prompts[name])}
        yield Request(name, body, traffic.cancel.leave if traffic.cancel and leaves else None)


def _prompts(name: str, traffic: TrafficClass, random: np.random.Generator) -> Iterator[Messages]:
    held_out = list(demo_models.held_out())
    known = sorted({item["domain"] for item in held_out})
    for domain in (domain for domain in traffic.domains if domain not in known):
        raise ConfigurationError(f"classes.{name}.domains: {unknown('domain', domain, known)}")
    found: list[Messages] = [
        item["messages"] for item in held_out if not traffic.domains or item["domain"] in traffic.domains
    ]
    shuffled = cycle([found[place] for place in random.permutation(len(found))])
    if traffic.prompt_characters is None:
        return shuffled
    texts = [message["content"] for item in held_out for message in item["messages"]]
    return (_padded(messages, texts, traffic.prompt_characters, random) for messages in shuffled)


def _padded(messages: Messages, texts: list[str], characters: int, random: np.random.Generator) -> Messages:
    """The conversation with held-out texts ahead of its question, so that it has `characters` in all.

    The texts begin at a random place: requests share no prefix that a cache could find. A longer one stays as it is.
    """
    missing = characters - sum(len(message["content"]) for message in messages) - 2
    if missing <= 0:
        return messages
    begin, mean = int(random.integers(len(texts))), sum(map(len, texts)) / len(texts)
    pieces = islice(cycle(texts), begin, begin + 2 * int(missing / mean) + len(texts))
    *before, question = messages
    filler = "\n".join(pieces)[:missing]
    return [*before, {**question, "content": f"{filler}\n\n{question['content']}"}]
