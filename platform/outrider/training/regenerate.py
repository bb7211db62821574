"""`outrider draft regenerate`: the target answers every prompt through the engine that serves it.

A drafter learns the distribution it will be verified against, so the answers are the target's own (arXiv 2607.05147),
at mixed temperatures. Each prompt has a seed of its own.
"""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outrider.errors import ArtifactMismatch, NotEnoughDisk
from outrider.local import LocalEngine
from outrider.training.answering import Question, in_order, open_answering
from outrider.training.answers import Answer, AnswerWriter
from outrider.training.artifacts import Artifact, Manifest
from outrider.training.prepare import length_statistics
from outrider.training.progress import Progress
from outrider.training.prompts import PromptRecord, encode_prompt, read_prompts
from outrider.training.recipe import Recipe
from outrider.training.subject import Subject, open_subject
from outrider.types import SamplingParams

__all__ = ["SPLITS", "answer_seed", "regenerate"]

SPLITS = ("train", "heldout")


@dataclass(frozen=True, slots=True)
class _Job:
    record: PromptRecord
    question: Question


def answer_seed(seed: int, prompt_id: str) -> int:
    """The sampling seed of one prompt in a run with `seed`: 48 bits, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{prompt_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big")


def regenerate(recipe: Recipe, *, restart: bool = False) -> Manifest:
    """Make `answers/`, going on after the last whole answer; returns the manifest, at once when it is up to date.

    Raises ArtifactMissing without prompts, ArtifactMismatch when they, the target or the settings changed,
    ArtifactBroken for damaged shards, NotEnoughDisk (what was answered is kept), EngineFault.
    """
    subject = open_subject(recipe)
    prompts = Artifact(recipe.output, "prompts")
    source = prompts.require_from({"tokenizer": subject.tokenizer})
    section = recipe.answers
    artifact = Artifact(recipe.output, "answers")
    settings = section.model_dump(mode="json", exclude={"drafter", "concurrency"}) | {"seed": recipe.seed}
    inputs = {"prompts": source.hash, **subject.inputs}
    if not artifact.begin(inputs, settings, restart=restart):
        return artifact.require()
    figures: dict[str, Any] = {}
    jobs = {split: _jobs(prompts.check_content(f"{split}.jsonl"), split, recipe, subject) for split in SPLITS}
    with _open(recipe, jobs) as local:
        for split in SPLITS:
            try:
                figures[split] = _answer_all(local, jobs[split], artifact.directory, split, section.concurrency)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise NotEnoughDisk(
                    f"{artifact.directory}: the disk is full; what was answered is kept: free some space, then "
                    "`outrider draft regenerate` goes on"
                ) from error
    return artifact.finish(figures)


def _jobs(file: Path, split: str, recipe: Recipe, subject: Subject) -> list[_Job]:
    """Prompts with their sampling; `answers.limit` takes the first training prompts only."""
    section = recipe.answers
    records = read_prompts(file)
    if split == "train" and section.limit is not None:
        records = records[: section.limit]
    jobs = []
    for number, record in enumerate(records):
        prompt = tuple(encode_prompt(record, subject.text))
        sampling = SamplingParams(
            max_tokens=min(section.max_new_tokens, subject.text.context_tokens - len(prompt)),
            temperature=section.temperatures[number % len(section.temperatures)],
            seed=answer_seed(recipe.seed, record.id),
        )
        jobs.append(_Job(record, Question(record.id, prompt, sampling)))
    return jobs


def _open(recipe: Recipe, jobs: dict[str, list[_Job]]) -> LocalEngine:
    questions = [job.question for each in jobs.values() for job in each]
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    section = recipe.answers
    return open_answering(recipe.target, questions, section.concurrency, drafter=section.drafter, dtype=dtype)


def _answer_all(
    local: LocalEngine, jobs: Sequence[_Job], directory: Path, split: str, concurrency: int
) -> dict[str, Any]:
    """Answer what is not answered yet; records stand in the order of the jobs, so a resumed run writes the same."""
    with AnswerWriter(directory, split) as writer, Progress(f"regenerate {split}") as progress:
        _check_resumed(writer.answers, jobs, directory)
        tokens = sum(len(answer.response_tokens) for answer in writer.answers)
        left = jobs[len(writer.answers) :]
        done = in_order(local, [job.question for job in left], concurrency)
        for job, (response, finish) in zip(left, done, strict=True):
            writer.append(_answer(job, response, str(finish)))
            tokens += len(response)
            progress.update(len(writer.answers) / len(jobs), answers=len(writer.answers), response_tokens=tokens)
        answers = writer.answers
    return {
        "answers": len(answers),
        "domains": dict(sorted(Counter(answer.domain for answer in answers).items())),
        "licenses": dict(sorted(Counter(answer.license for answer in answers).items())),
        "finish": dict(sorted(Counter(answer.finish for answer in answers).items())),
        "prompt_tokens": length_statistics([len(answer.prompt_tokens) for answer in answers]),
        "response_tokens": length_statistics([len(answer.response_tokens) for answer in answers]),
    }


def _check_resumed(answers: Sequence[Answer], jobs: Sequence[_Job], directory: Path) -> None:
    """What is there must be answers to these prompts in this order."""
    expected = [(job.record.id, job.question.sampling.seed) for job in jobs[: len(answers)]]
    if [(answer.id, answer.seed) for answer in answers] != expected:
        raise ArtifactMismatch(
            f"{directory}: the answers found are to other prompts; `outrider draft regenerate --restart` starts over"
        )


def _answer(job: _Job, tokens: list[int], finish: str) -> Answer:
    record, sampling = job.record, job.question.sampling
    return Answer(
        id=record.id,
        source=record.source,
        domain=record.domain,
        license=record.license,
        prompt_tokens=list(job.question.prompt),
        response_tokens=tokens,
        temperature=sampling.temperature,
        seed=sampling.seed,
        finish=finish,
    )
