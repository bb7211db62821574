"""One seed, one answer: whatever the depth, the company in the batch, or a drafter that dies on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from outrider.bench.prompts import held_out_prompts
from outrider.bench.reference import Reference
from outrider.bench.report import Report, Table
from outrider.bench.setup import UNTRIMMED, Setup, requests_for
from outrider.bench.spread import Say
from outrider.bench.ties import Comparison, Outcome, compare, seeded_gap
from outrider.local import LinkKind, LocalEngine
from outrider.types import GenerationRequest, TokenChunk

__all__ = ["measure_seeds"]

COMPANY = 15
_RESTART_AFTER_CHUNKS = 3


def measure_seeds(
    setup: Setup, *, prompts: int, max_tokens: int, temperature: float, top_p: float, link: LinkKind, say: Say
) -> Report:
    """Compare seeded answers with the ones at depth 0, alone. Half of the requests sample from a nucleus."""
    chosen = held_out_prompts(setup.target, prompts + COMPANY, max_tokens=max_tokens, file=setup.held_out)
    requests = requests_for([p.tokens for p in chosen], max_tokens, temperature=temperature, seed=20_26)
    requests = [_nucleus(request, top_p) if place % 2 else request for place, request in enumerate(requests)]
    asked, others = requests[:prompts], requests[prompts:]
    configuration = setup.configuration()
    reference = Reference(setup.target, dtype=setup.dtype, device=setup.device)
    with setup.open(link, streams=1 + COMPANY, curve=UNTRIMMED) as local:
        say("depth 0, alone")
        expected = _alone(local, [replace(request, depth_cap=0) for request in asked])

        def judge(place: int, answer: list[int]) -> Comparison:
            sampling, prompt = asked[place].sampling, asked[place].prompt_token_ids

            def gap_at(n: int) -> float:
                return seeded_gap(
                    reference.next_logits([*prompt, *expected[place][:n]]),
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=sampling.seed,
                    position=len(prompt) + n,
                )

            return compare(expected[place], answer, gap_at)

        arms: dict[str, Callable[[], list[list[int]]]] = {
            "full depth, alone": lambda: _alone(local, asked),
            f"depth 0, among {len(others)} others": lambda: _among(
                local, [replace(r, depth_cap=0) for r in asked], others
            ),
            f"full depth, among {len(others)} others": lambda: _among(local, asked, others),
            "drafter restarted while answering": lambda: _restarted(local, asked),
            "after the restart, alone": lambda: _alone(local, asked),
        }
        table = Table("the same seed against depth 0, alone", ("arm", "requests", "equal", "ties", "mismatches"))
        parameters = {
            "requests": len(asked), "max_tokens": max_tokens, "temperature": temperature,
            "top_p": [1.0, top_p], "link": link.value, "tokens": sum(map(len, expected)),
        }  # fmt: skip
        report = Report("seeds", configuration, parameters, [table])
        for arm, run in arms.items():
            say(arm)
            verdicts = [judge(place, answer) for place, answer in enumerate(run())]
            counts = {kind: sum(verdict.outcome is kind for verdict in verdicts) for kind in Outcome}
            table.add(arm, len(asked), counts[Outcome.EQUAL], counts[Outcome.TIE], counts[Outcome.MISMATCH])
            report.notes += [
                f"{arm}, request {place}: {verdict.outcome} at token {verdict.position}, gap {verdict.gap:.2e}"
                for place, verdict in enumerate(verdicts)
                if verdict.gap is not None
            ]
            report.passed &= not counts[Outcome.MISMATCH]
    return report


def _nucleus(request: GenerationRequest, top_p: float) -> GenerationRequest:
    return replace(request, sampling=replace(request.sampling, top_p=top_p))


def _alone(local: LocalEngine, requests: list[GenerationRequest]) -> list[list[int]]:
    return [local.generate([request])[0].tokens for request in requests]


def _among(local: LocalEngine, requests: list[GenerationRequest], others: list[GenerationRequest]) -> list[list[int]]:
    """Each request in the middle of a batch of `others`."""
    middle = len(others) // 2
    return [local.generate([*others[:middle], request, *others[middle:]])[middle].tokens for request in requests]


def _restarted(local: LocalEngine, requests: list[GenerationRequest]) -> list[list[int]]:
    """All requests at once; their drafter is killed after the first rounds and a new one is attached."""
    chunks = 0

    def on_chunk(_: str, __: TokenChunk) -> None:
        nonlocal chunks
        chunks += 1
        if chunks == _RESTART_AFTER_CHUNKS * len(requests):
            local.kill_drafter()
            local.attach_drafter()

    return [completion.tokens for completion in local.generate(requests, on_chunk)]
