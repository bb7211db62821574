"""Training data for a drafter: the target's own answers to training prompts, at mixed temperatures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outrider.training.data import Document
from outrider.training.generation import generate
from outrider.training.progress import Progress
from outrider.training.storage import load_checkpoint, save_checkpoint
from outrider.training.tokenizer import render_prompt

__all__ = ["Sample", "regenerate"]

SHARES = {"code": 0.37, "prose": 0.33, "maths": 0.20, "tasks": 0.10}
TEMPERATURES = (1.0, 1.0, 1.0, 0.7, 0.0)
BATCH = 64
MAX_PROMPT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Sample:
    """One regenerated conversation: prompt and response token ids."""

    domain: str
    temperature: float
    prompt: list[int]
    response: list[int]


def regenerate(
    model: Any,
    tokenizer: Any,
    documents: Sequence[Document],
    count: int,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    checkpoint: Path,
    seed: int = 7,
) -> list[Sample]:
    """`count` answers to distinct training prompts in the domains' shares; resumes from `checkpoint` batch by batch."""
    picked = _pick(documents, count, random.Random(seed))
    prompts = [tokenizer.encode(render_prompt(d.prompt), add_special_tokens=False) for d in picked]
    numbered = enumerate(zip(prompts, picked, strict=True))
    jobs = [(p, d.domain, i) for i, (p, d) in numbered if len(p) <= MAX_PROMPT_TOKENS]
    rng = random.Random(seed + 1)
    rng.shuffle(jobs)
    # neighbours in length share a batch; the shuffle of batches lets a part of the data be a fair sample of it
    jobs.sort(key=lambda job: len(job[0]))
    batches = [jobs[i : i + BATCH] for i in range(0, len(jobs), BATCH)]
    rng.shuffle(batches)
    saved = load_checkpoint(checkpoint)
    samples = [Sample(**item) for item in saved["samples"]] if saved else []
    done = saved["batches"] if saved else 0
    with Progress("regenerate") as progress:
        for number in range(done, len(batches)):
            batch = batches[number]
            temperatures = [TEMPERATURES[index % len(TEMPERATURES)] for _, _, index in batch]
            seeds = [seed * 1_000_003 + index for _, _, index in batch]
            answers = generate(model, [p for p, _, _ in batch], temperatures, seeds, eos_token_ids, max_new_tokens)
            for (prompt, domain, _), temperature, answer in zip(batch, temperatures, answers, strict=True):
                samples.append(Sample(domain, temperature, prompt, answer))
            if number % 10 == 9 or number == len(batches) - 1:
                save_checkpoint(checkpoint, {"batches": number + 1, "samples": [asdict(s) for s in samples]})
            tokens = sum(len(s.response) for s in samples)
            progress.update((number + 1) / len(batches), samples=len(samples), response_tokens=tokens)
    return samples


def _pick(documents: Sequence[Document], count: int, rng: random.Random) -> list[Document]:
    """Distinct prompts in the stated shares, as far as there are enough."""
    picked: list[Document] = []
    for domain, share in SHARES.items():
        distinct = {d.prompt[-1]["content"]: d for d in documents if d.messages and d.domain == domain}
        candidates = list(distinct.values())
        picked.extend(rng.sample(candidates, min(len(candidates), max(4, round(count * share)))))
    return picked
