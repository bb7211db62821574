"""The arms of the comparison: one engine per kind of drafter, told before every run who schedules it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from outrider.bench.setup import Setup
from outrider.drafter.lookup import LookupProposer
from outrider.engine import Engine
from outrider.local import LinkKind, LocalEngine
from outrider.scheduling import scheduler_named

__all__ = ["ADAPTIVE", "ARMS", "ATTACHED", "FIXED_1", "LOOKUP", "NONE", "Arms", "check_arms", "label"]

NONE, ATTACHED, LOOKUP, FIXED_1 = "none", "attached", "lookup", "fixed:1"
ARMS = (
    NONE, ATTACHED, FIXED_1, "fixed:3", "fixed:5", "fixed:7", LOOKUP, "threshold:0.5", "table", "algorithm1",
    "asynchronous", "constrained",
)  # fmt: skip
"""Names that `scheduler_named` reads, and two more: `lookup` is prompt lookup without a model, all of its proposals
verified; `attached` has the drafter that the adaptive arms have, and never asks it.
"""
ADAPTIVE = ("asynchronous", "constrained")
"""The arms whose ratios to all others are the result."""
_LOOKUP_DEPTH = 7


def label(arm: str) -> str:
    """An arm's name as people read it."""
    names = {
        NONE: "no speculation",
        ATTACHED: "drafter idle",
        LOOKUP: "prompt lookup",
        "table": "depth table",
        "algorithm1": "Algorithm 1",
    }
    return names.get(arm, arm.replace(":", " "))


def check_arms(arms: tuple[str, ...]) -> None:
    """Raises ConfigurationError for a name that is no arm."""
    for arm in arms:
        if arm not in (ATTACHED, LOOKUP):
            scheduler_named(arm)


class Arms:
    """Engines in one process with equal threads and memory. A context manager: leaving it closes them.

    Plain decoding and prompt lookup run on an engine that was loaded without a drafter, so that they do not pay for
    its projection; fixed depth 1 on one with the drafter made for it, if there is one; all else on a third.
    """

    def __init__(self, setup: Setup, arms: tuple[str, ...], *, streams: int, one_token: Path | None = None) -> None:
        check_arms(arms)
        with ExitStack() as stack:
            self._plain = self._block = self._one_token = None
            if {NONE, LOOKUP} & set(arms):
                self._plain = stack.enter_context(setup.open(LinkKind.IN_PROCESS, streams=streams, drafted=False))
            if one_token is not None and FIXED_1 in arms:
                own = replace(setup, drafter=one_token)
                self._one_token = stack.enter_context(own.open(LinkKind.IN_PROCESS, streams=streams))
            if set(arms) - {NONE, LOOKUP} - ({FIXED_1} if self._one_token else set()):
                self._block = stack.enter_context(setup.open(LinkKind.IN_PROCESS, streams=streams))
            self._stack = stack.pop_all()

    def ready(self, arm: str) -> Engine:
        """The arm's engine, which is idle, with statistics of its scheduler as fresh as after a start."""
        local = self._local(arm)
        engine = local.engine
        if arm == NONE:
            engine.drafting.detach()
        elif arm == LOOKUP:
            target = engine.target
            local.attach_proposer(LookupProposer(target.vocab_size, target.context_tokens, _LOOKUP_DEPTH), LOOKUP)
        engine.renew_costs()
        engine.use_scheduler({LOOKUP: f"fixed:{_LOOKUP_DEPTH}", ATTACHED: NONE}.get(arm, arm))
        return engine

    def _local(self, arm: str) -> LocalEngine:
        if arm in (NONE, LOOKUP):
            local = self._plain
        else:
            local = self._one_token if arm == FIXED_1 and self._one_token else self._block
        if local is None:
            raise KeyError(arm)
        return local

    def __enter__(self) -> Arms:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)
