"""The two verification rules side by side: tokens per round and per second, rejection ÷ coupled, by how q is made."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from outrider.bench.acceptance import acceptance_by_domain
from outrider.bench.prompts import Prompt, held_out_prompts
from outrider.bench.report import Report, Table
from outrider.bench.setup import UNTRIMMED, Setup, requests_for
from outrider.bench.spread import Say, Spread, ratios, take_turns
from outrider.drafter.dspark import DSparkProposer
from outrider.drafter.model import DSparkModel
from outrider.local import LinkKind, LocalEngine
from outrider.speculation import SPARSE_DRAFT, SparseDraft
from outrider.types import GenerationRequest

__all__ = ["measure_rules"]

WIDTHS = {"rejection": SPARSE_DRAFT, **{f"rejection, {width} tokens": SparseDraft(width) for width in (8, 32, 256)}}
"""How drafts are drawn: as served, and from fewer or more tokens."""
BLIND = {
    "rejection, no cuts": SparseDraft(cut=False),
    "rejection, no temperature": SparseDraft(cut=False, tempered=False),
}
"""Without the request's cuts, and as the model says; the same as served at temperature 1 without cuts."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """One run of an arm: τ as a mean over domains, and output tokens per second."""

    tau: float
    tokens_per_s: float


def measure_rules(
    setup: Setup,
    *,
    ways: Sequence[tuple[float, float]],
    prompts: int | None,
    max_tokens: int,
    streams: int,
    repetitions: int,
    say: Say,
) -> Report:
    """τ and speed of both rules with every drafted token verified, for each (temperature, top_p) of `ways`.

    The arms take turns, each repetition with seeds of its own.
    """
    chosen = held_out_prompts(setup.target, prompts, max_tokens=max_tokens, file=setup.held_out)
    configuration = setup.configuration()
    tau = Table("acceptance length τ, everything verified", ("temperature", "top_p", "rule", "τ", "÷ coupled"))
    speed = Table("tokens per second, everything verified", ("temperature", "top_p", "rule", "tokens/s", "÷ coupled"))
    with setup.open(LinkKind.IN_PROCESS, streams=streams, curve=UNTRIMMED) as local:
        block_size = local.engine.drafting.block_size
        drafter = DSparkModel.load(setup.drafter, setup.dtype)
        for temperature, top_p in ways:
            say(f"temperature {temperature:g}, top_p {top_p:g}")
            shapes = WIDTHS if (temperature, top_p) == (1, 1) else WIDTHS | BLIND
            ask = partial(
                requests_for, [prompt.tokens for prompt in chosen], max_tokens, temperature=temperature, top_p=top_p
            )
            arms = {
                name: _arm(local, DSparkProposer(drafter, sparse=shape), chosen, ask, name != "coupled", block_size)
                for name, shape in {"coupled": SPARSE_DRAFT, **shapes}.items()
            }
            turns = take_turns(arms, repetitions, say, warm_up=False)
            for name, runs in turns.items():
                for table, values, base in (
                    (tau, [run.tau for run in runs], [run.tau for run in turns["coupled"]]),
                    (speed, [run.tokens_per_s for run in runs], [run.tokens_per_s for run in turns["coupled"]]),
                ):
                    table.add(temperature, top_p, name, Spread.of(values), ratios(values, base))
    return Report(
        "rules",
        configuration,
        {
            "prompts": len(chosen), "max_tokens": max_tokens, "streams": streams, "block_size": block_size,
            "repetitions": repetitions, "q_tokens": SPARSE_DRAFT.width,
        },
        [tau, speed],
        ["rounds whose block max_tokens cut short are left out of τ"],
    )  # fmt: skip


def _arm(
    local: LocalEngine,
    proposer: DSparkProposer,
    prompts: list[Prompt],
    ask: Callable[..., list[GenerationRequest]],
    rejecting: bool,
    block_size: int,
) -> Callable[[], _Turn]:
    """One repetition a call, each with seeds of its own; the drafter's compiled step is there before the first."""
    if proposer.compiled is not None:
        proposer.compiled.pending.wait()
    seeds = itertools.count(0, 1_000_000)

    def run() -> _Turn:
        requests = ask(seed=next(seeds), verification="rejection" if rejecting else "coupled")
        local.attach_proposer(proposer, "rules")
        started = time.perf_counter()
        completions = local.generate(requests)
        took_s = time.perf_counter() - started
        answered = [(p.domain, c.summary) for p, c in zip(prompts, completions, strict=True) if c.summary is not None]
        tau = acceptance_by_domain(answered, requests[0].sampling.max_tokens, block_size)
        return _Turn(sum(tau.values()) / len(tau), sum(len(c.tokens) for c in completions) / took_s)

    return run
