"""Where a round's time goes, measured from outside: an engine's callables are wrapped while a bench runs.

A part's time is its own: what a wrapped callable spends in another wrapped one counts there alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import outrider.engine.engine as engine_module
from outrider.link import DraftBlock, InProcessLink
from outrider.local import LocalEngine

__all__ = ["DRAFTER", "FORWARDS", "PARTS", "Stopwatch", "watched"]

TARGET = "target forward"
DRAFTER = "drafter forward"
FORWARDS = (TARGET, DRAFTER)
PARTS = (
    TARGET,
    DRAFTER,
    "drafter's server",
    "link",
    "schedule",
    "batch building",
    "sampling, verifying",
    "commit",
    "bookkeeping",
    "detokenising",
)


class Stopwatch:
    """Own seconds by part since the last `take`. One thread uses it."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._inner = [0.0]

    def take(self) -> dict[str, float]:
        """The seconds so far; starts anew."""
        taken, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return taken

    def move(self, seconds: float, source: str, to: str) -> None:
        """Count `seconds` of one part as another's."""
        self._seconds[source] -= seconds
        self._seconds[to] += seconds

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, timed as `part`."""

        def run(*args: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                elapsed = time.perf_counter() - started
                self._seconds[part] += elapsed - self._inner.pop()
                self._inner[-1] += elapsed

        return run


@contextmanager
def watched(local: LocalEngine) -> Iterator[Stopwatch]:
    """Times an engine's rounds as long as the context lasts.

    A drafter in a process of its own reports how long a round took it, server and forward in one: all of it counts as
    the forward there.
    """
    engine: Any = local.engine
    watch = Stopwatch()
    places: list[tuple[Any, str, str]] = [
        (engine.target, "forward", TARGET),
        (engine._planner, "plan", "schedule"),
        (engine_module, "flatten", "batch building"),
        (engine._chooser, "choose", "sampling, verifying"),
        (engine, "_commit", "commit"),
        (engine, "step", "bookkeeping"),
        (engine, "snapshot", "bookkeeping"),
        (engine.drafting, "propose", "link"),
    ]
    link: Any = engine.drafting._link
    if isinstance(link, InProcessLink):
        server: Any = link.handler
        places.append((server, "handle", "drafter's server"))
        places += [(server._proposer, name, DRAFTER) for name in ("append", "propose")]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(_replaced(owner, name, watch.timed(part, getattr(owner, name))))
        if link is not None and not isinstance(link, InProcessLink):
            stack.enter_context(_replaced(link, "receive", _reporting(link.receive, watch)))
        yield watch


def _reporting(receive: Callable[[float], DraftBlock], watch: Stopwatch) -> Callable[[float], DraftBlock]:
    def run(timeout_s: float) -> DraftBlock:
        block = receive(timeout_s)
        watch.move(block.draft_s, "link", DRAFTER)
        return block

    return run


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
