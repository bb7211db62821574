"""Held-out prompts for evaluating drafters, and the target's answers to them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from outrider.errors import DataError
from outrider.text import TextModel
from outrider.training.answering import Question, in_order, open_answering
from outrider.training.progress import Progress
from outrider.training.prompts import BadRecord, encode_prompt, parse_record, read_file
from outrider.training.regenerate import answer_seed
from outrider.training.rounds import KnownAnswer
from outrider.types import SamplingParams

__all__ = ["DEGENERATE_RATIO", "Trial", "answer_trials", "is_degenerate", "read_trials"]

DEGENERATE_RATIO = 4.0
"""zlib's ratio above which an answer counts as repetition: loops compress 5 to 20 times, other text of a few hundred
bytes up to about 3."""
_SHORTEST_BYTES = 64
_IN_FLIGHT = 64


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
    """The target's answers through the engine, each written to `file` as it comes; what stands there is kept."""
    questions = [
        Question(trial.id, tuple(trial.tokens), SamplingParams(max_new_tokens, temperature=temperature, seed=each))
        for trial, each in zip(trials, (answer_seed(seed, trial.id) for trial in trials), strict=True)
    ]
    answers = _answered(file, questions)
    left = questions[len(answers) :]
    if not left:
        return answers
    with (
        open_answering(target, questions, _IN_FLIGHT) as local,
        file.open("ab") as stream,
        Progress(f"answers at T={temperature:g}") as progress,
    ):
        for question, (tokens, _) in zip(left, in_order(local, left, _IN_FLIGHT), strict=True):
            answer = KnownAnswer(list(question.prompt), tokens, question.sampling.seed or 0, max_new_tokens)
            stream.write(json.dumps(asdict(answer)).encode() + b"\n")
            stream.flush()
            answers.append(answer)
            progress.update(len(answers) / len(questions), prompts=len(answers))
    return answers


def _answered(file: Path, questions: Sequence[Question]) -> list[KnownAnswer]:
    """The answers that an interrupted evaluation left; anything behind the last whole one is cut away."""
    content = file.read_bytes() if file.exists() else b""
    answers: list[KnownAnswer] = []
    kept = 0
    for line, question in zip(content.splitlines(keepends=True), questions, strict=False):
        try:
            answer = KnownAnswer(**json.loads(line)) if line.endswith(b"\n") else None
        except (ValueError, TypeError):
            break
        if answer is None or (answer.prompt, answer.seed) != (list(question.prompt), question.sampling.seed):
            break
        answers.append(answer)
        kept += len(line)
    if kept < len(content):
        os.truncate(file, kept)
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
