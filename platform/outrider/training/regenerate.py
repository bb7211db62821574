"""`outrider draft regenerate`: the target answers every prompt through the engine that serves it.

A drafter learns the distribution it will be verified against, so the answers are the target's own (arXiv 2607.05147),
at mixed temperatures. Each prompt has a seed of its own; under the coupled rule the answer is a function of prompt,
temperature and seed, whatever is answered beside it or drafted for it, up to ties in floating point.
"""

from __future__ import annotations

import errno
import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outrider.engine import EngineSettings
from outrider.errors import ArtifactMismatch, EngineFault, NotEnoughDisk
from outrider.local import LocalEngine, open_engine
from outrider.scheduling import StepCostCurve
from outrider.training.answers import Answer, AnswerWriter
from outrider.training.artifacts import Artifact, Manifest
from outrider.training.prepare import length_statistics
from outrider.training.progress import Progress
from outrider.training.prompts import PromptRecord, encode_prompt, read_prompts
from outrider.training.recipe import Recipe
from outrider.training.subject import Subject, open_subject
from outrider.types import BatchClass, FinishReason, GenerationRequest, SamplingParams

__all__ = ["SPLITS", "answer_seed", "regenerate"]

SPLITS = ("train", "heldout")
_KV_BLOCK = 16
_STEP_TOKENS = 2048
_PLAIN_CURVE = StepCostCurve((1, 4096), (1.0, 2.0), "unused")
"""Without a drafter there is no depth to choose, so nothing is measured."""
_THROUGHPUT = BatchClass("throughput", prefill_share=1.0, co_batch_tokens=_STEP_TOKENS)


@dataclass(frozen=True, slots=True)
class _Job:
    record: PromptRecord
    prompt: tuple[int, ...]
    sampling: SamplingParams


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
        jobs.append(_Job(record, prompt, sampling))
    return jobs


def _open(recipe: Recipe, jobs: dict[str, list[_Job]]) -> LocalEngine:
    """An engine with memory for `concurrency` of the longest requests."""
    section = recipe.answers
    longest = max(len(job.prompt) + job.sampling.max_tokens for each in jobs.values() for job in each)
    settings = EngineSettings(
        model=recipe.target.name,
        kv_blocks=section.concurrency * -(-longest // _KV_BLOCK),
        block_size=_KV_BLOCK,
        max_running_requests=section.concurrency,
        max_queued_requests=2 * section.concurrency,
        max_step_tokens=_STEP_TOKENS,
        draft_timeout_s=60.0,
    )
    curve = _PLAIN_CURVE if section.drafter is None else None
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    return open_engine(
        recipe.target, section.drafter, settings=settings, curve=curve, dtype=dtype, device="cuda" if cuda else "cpu"
    )


def _answer_all(
    local: LocalEngine, jobs: Sequence[_Job], directory: Path, split: str, concurrency: int
) -> dict[str, Any]:
    """Answer what is not answered yet; records stand in the order of the jobs, so a resumed run writes the same."""
    with AnswerWriter(directory, split) as writer, Progress(f"regenerate {split}") as progress:
        _check_resumed(writer.answers, jobs, directory)
        tokens = sum(len(answer.response_tokens) for answer in writer.answers)
        for answer in _in_order(local, jobs[len(writer.answers) :], concurrency):
            writer.append(answer)
            tokens += len(answer.response_tokens)
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
    expected = [(job.record.id, job.sampling.seed) for job in jobs[: len(answers)]]
    if [(answer.id, answer.seed) for answer in answers] != expected:
        raise ArtifactMismatch(
            f"{directory}: the answers found are to other prompts; `outrider draft regenerate --restart` starts over"
        )


def _in_order(local: LocalEngine, jobs: Sequence[_Job], concurrency: int) -> Iterator[Answer]:
    """Answers in the order of the jobs, `concurrency` in flight; the engine refills its batch at every step."""
    engine = local.engine
    waiting = deque(enumerate(jobs))
    tokens: dict[int, list[int]] = {}
    ready: dict[int, Answer] = {}
    following = 0
    while following < len(jobs):
        while waiting and len(tokens) < concurrency:
            number, job = waiting.popleft()
            tokens[number] = []
            engine.submit(GenerationRequest(str(number), job.prompt, job.sampling, _THROUGHPUT))
        for name, chunk in engine.step():
            number = int(name)
            tokens[number] += chunk.tokens
            if chunk.finish is None:
                continue
            if chunk.finish not in (FinishReason.STOP, FinishReason.LENGTH):
                raise EngineFault(f"prompt {jobs[number].record.id} ended with {chunk.finish}: {chunk.error}")
            ready[number] = _answer(jobs[number], tokens.pop(number), str(chunk.finish))
        while following in ready:
            yield ready.pop(following)
            following += 1


def _answer(job: _Job, tokens: list[int], finish: str) -> Answer:
    record, sampling = job.record, job.sampling
    return Answer(
        id=record.id,
        source=record.source,
        domain=record.domain,
        license=record.license,
        prompt_tokens=list(job.prompt),
        response_tokens=tokens,
        temperature=sampling.temperature,
        seed=sampling.seed,
        finish=finish,
    )
