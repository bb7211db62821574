"""Greedy answers against `transformers.generate`: with and without drafts, in one process and over ZeroMQ."""

from __future__ import annotations

from collections.abc import Iterator

from outrider.bench.prompts import held_out_prompts
from outrider.bench.reference import Reference
from outrider.bench.report import Report, Table
from outrider.bench.setup import UNTRIMMED, Setup, requests_for
from outrider.bench.spread import Say
from outrider.bench.ties import Comparison, Outcome, compare, greedy_gap
from outrider.local import LinkKind

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

    table = Table("greedy output against transformers.generate", ("arm", "prompts", "equal", "ties", "mismatches"))
    report = Report(
        "exact",
        configuration,
        {"prompts": len(chosen), "max_tokens": max_tokens, "streams": streams, "tokens": sum(map(len, expected))},
        [table],
    )
    for arm, answers in _arms(setup, inputs, max_tokens, streams, say):
        verdicts = [judge(place, answer) for place, answer in enumerate(answers)]
        counts = {kind: sum(verdict.outcome is kind for verdict in verdicts) for kind in Outcome}
        table.add(arm, len(chosen), counts[Outcome.EQUAL], counts[Outcome.TIE], counts[Outcome.MISMATCH])
        report.notes += [
            f"{arm}, prompt {place}: {verdict.outcome} at token {verdict.position}, reference gap {verdict.gap:.2e}"
            for place, verdict in enumerate(verdicts)
            if verdict.gap is not None
        ]
        if counts[Outcome.MISMATCH] or counts[Outcome.TIE] > TIES_ALLOWED * len(chosen):
            report.passed = False
    return report


def _arms(
    setup: Setup, inputs: list[tuple[int, ...]], max_tokens: int, streams: int, say: Say
) -> Iterator[tuple[str, list[list[int]]]]:
    """(arm, answers) for both links at depth 0, at full depth, and as Algorithm 1 trims on this machine."""
    for link in LinkKind:
        with setup.open(link, streams=streams) as local:
            measured = local.engine.curve
            for name, cap, curve in (("0", 0, UNTRIMMED), ("full", None, UNTRIMMED), ("Algorithm 1", None, measured)):
                arm = f"{link.value}, depth {name}"
                say(f"{arm}: {len(inputs)} prompts")
                local.engine.curve = curve
                done = local.generate(requests_for(inputs, max_tokens, depth_cap=cap))
                yield arm, [completion.tokens for completion in done]
