"""Many prompts through an engine of this process: as many at once as it holds, answers in the order of the prompts.

Under the coupled rule an answer is a function of prompt, temperature and seed, whatever is answered beside it or
drafted for it, up to ties in floating point: so a run that was stopped goes on after the answers it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from outrider.engine import EngineSettings
from outrider.errors import EngineFault
from outrider.local import LocalEngine, open_engine
from outrider.scheduling import StepCostCurve
from outrider.types import BatchClass, FinishReason, GenerationRequest, SamplingParams

__all__ = ["Question", "in_order", "open_answering"]

_KV_BLOCK = 16
_STEP_TOKENS = 2048
_PLAIN_CURVE = StepCostCurve((1, 4096), (1.0, 2.0), "unused")
"""Without a drafter there is no depth to choose, so nothing is measured."""
_THROUGHPUT = BatchClass("throughput", prefill_share=1.0, co_batch_tokens=_STEP_TOKENS)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as token ids and how its answer is sampled; `name` is for errors."""

    name: str
    prompt: tuple[int, ...]
    sampling: SamplingParams


def open_answering(
    target: Path,
    questions: Sequence[Question],
    in_flight: int,
    *,
    drafter: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> LocalEngine:
    """An engine, on a GPU where there is one, with memory for `in_flight` of the longest questions."""
    longest = max(len(each.prompt) + each.sampling.max_tokens for each in questions)
    settings = EngineSettings(
        model=target.name,
        kv_blocks=in_flight * -(-longest // _KV_BLOCK),
        block_size=_KV_BLOCK,
        max_running_requests=in_flight,
        max_queued_requests=2 * in_flight,
        max_step_tokens=_STEP_TOKENS,
        draft_timeout_s=60.0,
    )
    curve = _PLAIN_CURVE if drafter is None else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return open_engine(target, drafter, settings=settings, curve=curve, dtype=dtype, device=device)


def in_order(
    local: LocalEngine, questions: Sequence[Question], in_flight: int
) -> Iterator[tuple[list[int], FinishReason]]:
    """Token ids of each answer and why it ended, in the order of `questions`; the engine refills its batch every step.

    Raises EngineFault naming the question whose answer failed.
    """
    waiting = deque(enumerate(questions))
    tokens: dict[int, list[int]] = {}
    ready: dict[int, tuple[list[int], FinishReason]] = {}
    following = 0
    while following < len(questions):
        while waiting and len(tokens) < in_flight:
            number, question = waiting.popleft()
            tokens[number] = []
            local.engine.submit(GenerationRequest(str(number), question.prompt, question.sampling, _THROUGHPUT))
        for name, chunk in local.engine.step():
            number = int(name)
            tokens[number] += chunk.tokens
            if chunk.finish is None:
                continue
            if chunk.finish not in (FinishReason.STOP, FinishReason.LENGTH):
                raise EngineFault(f"prompt {questions[number].name} ended with {chunk.finish}: {chunk.error}")
            ready[number] = tokens.pop(number), chunk.finish
        while following in ready:
            yield ready.pop(following)
            following += 1
