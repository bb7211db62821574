"""Acceptance length τ: mean emitted tokens per decode round, the bonus token included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from outrider.bench.prompts import Prompt, held_out_prompts
from outrider.bench.report import Cell, Report, Table
from outrider.bench.setup import UNTRIMMED, Setup, requests_for
from outrider.bench.spread import Say, Spread
from outrider.local import LinkKind, LocalEngine
from outrider.types import RequestSummary

__all__ = ["acceptance_by_domain", "emitted_per_round", "measure_acceptance"]


def measure_acceptance(
    setup: Setup,
    *,
    temperatures: Sequence[float],
    prompts: int | None,
    max_tokens: int,
    streams: int,
    repetitions: int,
    say: Say,
) -> Report:
    """τ by domain and macro, with every drafted token verified, and as the engine plans on this machine.

    At temperature 0 full-depth repetitions repeat themselves; above, each has seeds of its own.
    """
    chosen = held_out_prompts(setup.target, prompts, max_tokens=max_tokens, file=setup.held_out)
    configuration = setup.configuration()
    domains = sorted({prompt.domain for prompt in chosen})
    table = Table("acceptance length τ", ("verified", "temperature", "macro", *domains))
    block_size = 0
    for name, curve in (("everything", UNTRIMMED), (f"as served, {streams} streams", None)):
        with setup.open(LinkKind.IN_PROCESS, streams=streams, curve=curve) as local:
            block_size = local.engine.drafting.block_size
            for temperature in temperatures:
                runs = []
                for repetition in range(1 if curve is UNTRIMMED and temperature == 0 else repetitions):
                    say(f"{name}, temperature {temperature:g}: repetition {repetition + 1}")
                    seed = 1_000_000 * repetition
                    runs.append(_one_run(local, chosen, max_tokens, temperature, seed, block_size))
                table.add(name, temperature, *_cells(runs, domains))
    return Report(
        "acceptance",
        configuration,
        {"prompts": len(chosen), "max_tokens": max_tokens, "streams": streams, "block_size": block_size},
        [table],
        [
            "rounds whose block max_tokens cut short are left out",
            "as served, Algorithm 1 trims, and rounds that do not draft count with their one token",
        ],
    )


def _one_run(
    local: LocalEngine, prompts: list[Prompt], max_tokens: int, temperature: float, seed: int, block_size: int
) -> dict[str, float]:
    requests = requests_for([p.tokens for p in prompts], max_tokens, temperature=temperature, seed=seed)
    summaries = [completion.summary for completion in local.generate(requests)]
    answered = [(p.domain, s) for p, s in zip(prompts, summaries, strict=True) if s is not None]
    return acceptance_by_domain(answered, max_tokens, block_size)


def _cells(runs: list[dict[str, float]], domains: list[str]) -> list[Cell]:
    """Macro average, then each domain; a domain whose answers never reached a full round is empty."""
    cells: list[Cell] = [Spread.of([sum(run.values()) / len(run) for run in runs])]
    for domain in domains:
        values = [run[domain] for run in runs if domain in run]
        cells.append(Spread.of(values) if values else None)
    return cells


def acceptance_by_domain(
    answered: Iterable[tuple[str, RequestSummary]], max_tokens: int, block_size: int
) -> dict[str, float]:
    """τ pooled over the rounds of each domain."""
    rounds: dict[str, list[int]] = {}
    for domain, summary in answered:
        rounds.setdefault(domain, []).extend(emitted_per_round(summary, max_tokens, block_size))
    return {domain: sum(emitted) / len(emitted) for domain, emitted in rounds.items() if emitted}


def emitted_per_round(summary: RequestSummary, max_tokens: int, block_size: int) -> list[int]:
    """Tokens each decode round emitted, without the rounds that were too near to `max_tokens` for a whole block."""
    emitted = []
    so_far = 1
    for _, accepted in summary.round_records:
        if max_tokens - so_far <= block_size:
            break
        gained = min(accepted + 1, summary.completion_tokens - so_far)
        emitted.append(gained)
        so_far += gained
    return emitted
