"""Held-out prompts for evaluating drafters, and the target's answers to them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from outrider.engine import EngineSettings
from outrider.errors import DataError, EngineFault
from outrider.local import open_engine
from outrider.scheduling import StepCostCurve
from outrider.text import TextModel
from outrider.training.prompts import BadRecord, encode_prompt, parse_record, read_file
from outrider.training.regenerate import answer_seed
from outrider.training.rounds import KnownAnswer
from outrider.types import BatchClass, FinishReason, GenerationRequest, SamplingParams

__all__ = ["DEGENERATE_RATIO", "Trial", "answer_trials", "is_degenerate", "read_trials"]

DEGENERATE_RATIO = 4.0
"""zlib's ratio above which an answer counts as repetition: loops compress 5 to 20 times, other text of a few hundred
bytes up to about 3."""
_SHORTEST_BYTES = 64
_BLOCK = 16
_STEP_TOKENS = 2048
_CURVE = StepCostCurve((1, 4096), (1.0, 2.0), "unused")


@dataclass(frozen=True, slots=True)
class Trial:
    """One held-out prompt, encoded."""

    id: str
    domain: str
    tokens: list[int]


def read_trials(
    files: Sequence[Path], text: TextModel, limit_per_domain: int, max_new_tokens: int, *, chat: bool = False
) -> list[Trial]:
    """The first prompts of every domain, in the order of the files.

    A record without a domain has its file's name for one; with `chat`, plain prompts become a user's turn.
    Prompts that leave no room for an answer are left out. Raises DataError.
    """
    found: list[Trial] = []
    too_long = 0
    counts: dict[str, int] = {}
    for file in files:
        for number, value in read_file(file):
            try:
                record = parse_record(_as_chat(value) if chat else value)
                domain = record.domain if isinstance(value, dict) and value.get("domain") else file.stem
                if counts.get(domain, 0) >= limit_per_domain:
                    continue
                tokens = encode_prompt(record, text)
            except BadRecord as error:
                raise DataError(f"{file}:{number}: {error}") from error
            if len(tokens) + max_new_tokens <= text.context_tokens:
                counts[domain] = counts.get(domain, 0) + 1
                found.append(Trial(record.id, domain, tokens))
            else:
                too_long += 1
    if not found:
        named = ", ".join(map(str, files))
        if too_long:
            raise DataError(
                f"{named}: none of {too_long} prompts leaves room for evaluation.max_new_tokens ({max_new_tokens}) in "
                f"the target's context of {text.context_tokens} tokens; lower it, or give shorter prompts"
            )
        raise DataError(
            f"{named}: no prompts to evaluate on; give a file with --prompts and a --label, or raise "
            "prompts.heldout_percent and begin again with `outrider draft prepare --restart`"
        )
    return found


def answer_trials(
    target: Path, trials: Sequence[Trial], temperature: float, max_new_tokens: int, seed: int, file: Path
) -> list[KnownAnswer]:
    """The target's answers, from `file` if it holds them, else through the engine, and then written there."""
    wanted = [answer_seed(seed, trial.id) for trial in trials]
    if file.exists():
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        found = [KnownAnswer(**line) for line in lines]
        if [(a.prompt, a.seed) for a in found] == [(t.tokens, s) for t, s in zip(trials, wanted, strict=True)]:
            return found
    requests = [
        GenerationRequest(
            str(number), tuple(trial.tokens), SamplingParams(max_new_tokens, temperature=temperature, seed=each),
            BatchClass("throughput", prefill_share=1.0, co_batch_tokens=_STEP_TOKENS),
        )
        for number, (trial, each) in enumerate(zip(trials, wanted, strict=True))
    ]  # fmt: skip
    longest = max(len(trial.tokens) for trial in trials) + max_new_tokens
    settings = EngineSettings(
        model=target.name,
        kv_blocks=64 * -(-longest // _BLOCK),
        block_size=_BLOCK,
        max_running_requests=64,
        max_queued_requests=len(requests) + 1,
        max_step_tokens=_STEP_TOKENS,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with open_engine(target, settings=settings, curve=_CURVE, device=device) as local:
        completions = local.generate(requests)
    answers = []
    for trial, each, completion in zip(trials, wanted, completions, strict=True):
        if completion.finish not in (FinishReason.STOP, FinishReason.LENGTH):
            raise EngineFault(f"prompt {trial.id} ended with {completion.finish}: {completion.error}")
        answers.append(KnownAnswer(trial.tokens, completion.tokens, each, max_new_tokens))
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in answers), encoding="utf-8")
    partial.replace(file)
    return answers


def is_degenerate(text: str) -> bool:
    """Whether an answer is mostly repetition: it compresses more than DEGENERATE_RATIO times."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw) >= _SHORTEST_BYTES and len(raw) / len(zlib.compress(raw, 9)) > DEGENERATE_RATIO


def _as_chat(value: object) -> object:
    if isinstance(value, dict) and isinstance(value.get("prompt"), str) and value.get("messages") is None:
        rest = {name: each for name, each in value.items() if name != "prompt"}
        return {**rest, "messages": [{"role": "user", "content": value["prompt"]}]}
    return value
