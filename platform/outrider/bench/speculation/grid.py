"""What is measured: cells, the requests of each, and in which order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from outrider.bench.prompts import Prompt, mixed
from outrider.bench.setup import requests_for
from outrider.types import GenerationRequest, Verification

__all__ = ["MIXED", "Cell", "Grid", "Turn", "shuffled"]

C = TypeVar("C")

MIXED = "mixed"
_LEAST_WARM_UP = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: a domain or all of them mixed, a temperature, and how many requests run at a time."""

    domain: str
    temperature: float
    concurrency: int

    def __str__(self) -> str:
        return f"{self.domain}, T = {self.temperature:g}, {self.concurrency} at a time"


@dataclass(frozen=True, slots=True)
class Turn(Generic[C]):
    """A cell in one repetition: every arm answers the same requests, one arm after another."""

    cell: C
    repetition: int

    def order(self, arms: tuple[str, ...]) -> tuple[str, ...]:
        """The arms, another one first in each repetition."""
        first = self.repetition % len(arms)
        return arms[first:] + arms[:first]


@dataclass(frozen=True, slots=True)
class Grid:
    """Closed-loop cells and their size. Domains apart are measured at the first temperature only.

    verification: of sampled answers; under the coupled rule all arms give the same ones.
    """

    arms: tuple[str, ...]
    concurrencies: tuple[int, ...]
    temperatures: tuple[float, ...]
    domain_concurrencies: tuple[int, ...]
    repetitions: int
    per_stream: int
    least_requests: int
    max_tokens: int
    verification: Verification

    def turns(self, domains: Sequence[str]) -> list[Turn[Cell]]:
        """The whole grid once, then again: whoever stops early has all of it, in fewer repetitions."""
        cells = [Cell(MIXED, each, count) for each in self.temperatures for count in self.concurrencies]
        apart = [Cell(each, self.temperatures[0], n) for n in self.domain_concurrencies for each in domains]
        return [Turn(cell, repetition) for repetition in range(self.repetitions) for cell in [*cells, *apart]]

    def requests(self, cell: Cell) -> int:
        """Requests of one run."""
        return max(self.least_requests, self.per_stream * cell.concurrency)

    def work(self, turn: Turn[Cell]) -> int:
        """Requests of a turn, warm-up left out."""
        return self.requests(turn.cell) * len(self.arms)

    def made(
        self, turn: Turn[Cell], prompts: Sequence[Prompt]
    ) -> tuple[list[GenerationRequest], list[GenerationRequest]]:
        """(warm-up, measured) requests: prompts in an order and with seeds of the repetition, the same for every arm.

        The warm-up is as wide as the cell: schedulers begin without statistics, and a server has them.
        """
        cell = turn.cell
        chosen = list(shuffled(prompts, cell.domain, turn.repetition))
        warm = max(_LEAST_WARM_UP, cell.concurrency)
        count = self.requests(cell)
        tokens = [chosen[place % len(chosen)].tokens for place in range(warm + count)]
        seed = 1_000_000 * (turn.repetition + 1)
        measured = requests_for(tokens[:count], self.max_tokens, temperature=cell.temperature, seed=seed)
        first = requests_for(tokens[count:], self.max_tokens, temperature=cell.temperature, seed=seed + count)
        return self._verified(first), self._verified(measured)

    def _verified(self, requests: list[GenerationRequest]) -> list[GenerationRequest]:
        return [replace(each, sampling=replace(each.sampling, verification=self.verification)) for each in requests]

    def as_dict(self) -> dict[str, Any]:
        """As a file holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def shuffled(prompts: Sequence[Prompt], domain: str, repetition: int) -> Iterator[Prompt]:
    """Prompts of a domain, or of all in turn, each domain's in the repetition's own order."""
    order = random.Random(repetition)
    by_domain: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_domain.setdefault(prompt.domain, []).append(prompt)
    for each in by_domain.values():
        order.shuffle(each)
    yield from by_domain[domain] if domain != MIXED else mixed(prompt for each in by_domain.values() for prompt in each)
