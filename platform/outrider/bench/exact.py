"""Greedy answers against `transformers.generate`: with and without drafts, in one process and over ZeroMQ."""

from __future__ import annotations

from collections.abc import Iterator

from outrider.bench.prompts import held_out_prompts
from outrider.bench.reference import Reference
from outrider.bench.report import Report, Table
from outrider.bench.setup import UNTRIMMED, Setup, requests_for
from outrider.bench.spread import Say
from outrider.bench.ties import Comparison, Outcome, compare, greedy_gap
from outrider.local import Completion, LinkKind

__all__ = ["measure_exact"]

TIES_ALLOWED = 0.01
"""Largest share of prompts that may end in a tie."""


def measure_exact(setup: Setup, *, prompts: int, max_tokens: int, streams: int, say: Say) -> Report:
    """Compare every prompt's greedy answer, generated `streams` at a time, with the reference's, generated alone."""
    chosen = held_out_prompts(setup.target, prompts, max_tokens=max_tokens, file=setup.held_out)
    configuration = setup.configuration()
    inputs = [prompt.tokens for prompt in chosen]
    reference = Reference(setup.target, dtype=setup.dtype, device=setup.device)
    expected = []
    for place, tokens in enumerate(inputs):
        say(f"transformers.generate: prompt {place + 1} of {len(inputs)}")
        expected += reference.greedy([tokens], max_tokens).tokens

    def judge(place: int, answer: list[int]) -> Comparison:
        def gap_at(n: int) -> float:
            return greedy_gap(reference.next_logits([*inputs[place], *expected[place][:n]]))

        return compare(expected[place], answer, gap_at)

    columns = ("arm", "prompts", "equal", "ties", "mismatches", "drafts verified per round")
    table = Table("greedy output against transformers.generate", columns)
    report = Report(
        "exact",
        configuration,
        {"prompts": len(chosen), "max_tokens": max_tokens, "streams": streams, "tokens": sum(map(len, expected))},
        [table],
    )
    for arm, done in _arms(setup, inputs, max_tokens, streams, say):
        verdicts = [judge(place, completion.tokens) for place, completion in enumerate(done)]
        counts = {kind: sum(verdict.outcome is kind for verdict in verdicts) for kind in Outcome}
        depth = _mean_depth(done)
        table.add(arm, len(chosen), counts[Outcome.EQUAL], counts[Outcome.TIE], counts[Outcome.MISMATCH], depth)
        report.notes += [
            f"{arm}, prompt {place}: {verdict.outcome} at token {verdict.position}, reference gap {verdict.gap:.2e}"
            for place, verdict in enumerate(verdicts)
            if verdict.gap is not None
        ]
        if counts[Outcome.MISMATCH] or counts[Outcome.TIE] > TIES_ALLOWED * len(chosen):
            report.passed = False
    return report


def _mean_depth(done: list[Completion]) -> float:
    """Draft tokens verified per request and round: shows that an arm ran at the depth it is named for."""
    summaries = [completion.summary for completion in done if completion.summary is not None]
    return sum(s.admitted_tokens for s in summaries) / max(1, sum(s.rounds for s in summaries))


def _arms(
    setup: Setup, inputs: list[tuple[int, ...]], max_tokens: int, streams: int, say: Say
) -> Iterator[tuple[str, list[Completion]]]:
    """(arm, answers) for both links at depth 0, at full depth, and as the engine plans on this machine."""
    for link in LinkKind:
        for name, cap, curve in (("depth 0", 0, UNTRIMMED), ("full depth", None, UNTRIMMED), ("as served", None, None)):
            arm = f"{link.value}, {name}"
            say(f"{arm}: {len(inputs)} prompts")
            with setup.open(link, streams=streams, curve=curve) as local:
                yield arm, local.generate(requests_for(inputs, max_tokens, depth_cap=cap))
