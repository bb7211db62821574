"""Offline figures on held-out text: loss per domain, exact answers, and acceptance length under coupled verification.

What a target emits under coupled verification does not depend on the drafter. So the answers are generated first, and
acceptance is read off by drafting at the anchors a real run would visit: the first response token, then past each
accepted run and its bonus.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from outrider.drafter.model import DSparkModel
from outrider.speculation.sampling import RowSampling, choose
from outrider.training.features import Featured, extract
from outrider.training.generation import generate

__all__ = ["Acceptance", "HeldOutPrompt", "acceptance", "domain_loss", "exact_match", "generate_answers"]


@dataclass(frozen=True, slots=True)
class HeldOutPrompt:
    """A held-out question as token ids; `answer` where it is exact."""

    domain: str
    tokens: list[int]
    answer: str | None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Per domain: acceptance length τ (response tokens after the first per round, bonus included); rates per slot."""

    tau: dict[str, float]
    slot_rates: list[float]

    @property
    def macro(self) -> float:
        return sum(self.tau.values()) / len(self.tau) if self.tau else math.nan


def generate_answers(
    model: Any,
    prompts: Sequence[HeldOutPrompt],
    temperature: float,
    eos_token_ids: Sequence[int],
    max_new_tokens: int,
    seed: int = 5,
) -> list[list[int]]:
    """The target's answers; the seed of prompt i is `seed + i`, as `acceptance` expects."""
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        found = generate(
            model, [prompts[i].tokens for i in batch], [temperature] * len(batch), [seed + i for i in batch],
            eos_token_ids, max_new_tokens,
        )  # fmt: skip
        for index, answer in zip(batch, found, strict=True):
            answers[index] = answer
    return answers


def acceptance(
    model: Any,
    drafter: DSparkModel,
    prompts: Sequence[HeldOutPrompt],
    answers: Sequence[list[int]],
    temperature: float,
    seed: int = 5,
) -> Acceptance:
    """τ of `drafter` on the given answers, pooled over the tokens of each domain."""
    triples = [(p.domain, p.tokens, a) for p, a in zip(prompts, answers, strict=True)]
    featured = extract(model, triples, drafter.config.target_layer_ids)
    gamma = drafter.config.block_size
    emitted: dict[str, int] = {}
    rounds: dict[str, int] = {}
    tried, matched = [0] * gamma, [0] * gamma
    with torch.inference_mode():
        for index, conversation in enumerate(featured):
            size, first = len(conversation.tokens), conversation.prompt_tokens
            if size - first < 2:
                continue
            drafts = _draft_everywhere(drafter, conversation, temperature, seed + index)
            truth = conversation.tokens.tolist()
            at = first
            while at < size - 1:
                draft, left = drafts[at - first], size - 1 - at
                run = 0
                while run < min(gamma, left) and draft[run] == truth[at + 1 + run]:
                    run += 1
                for slot in range(min(run + 1, gamma, left)):
                    tried[slot] += 1
                    matched[slot] += slot < run
                step = min(run + 1, left)
                emitted[conversation.domain] = emitted.get(conversation.domain, 0) + step
                rounds[conversation.domain] = rounds.get(conversation.domain, 0) + 1
                at += step
    tau = {domain: emitted[domain] / rounds[domain] for domain in sorted(rounds)}
    return Acceptance(tau, [m / max(1, t) for m, t in zip(matched, tried, strict=True)])


def _draft_everywhere(drafter: DSparkModel, conversation: Featured, temperature: float, seed: int) -> list[list[int]]:
    """One block per response token as the anchor, through the inference path: [anchors][γ] token ids."""
    gamma, mask = drafter.config.block_size, drafter.config.mask_token_id
    anchors = torch.arange(conversation.prompt_tokens, len(conversation.tokens) - 1)
    keys, values = drafter.context_kv(
        drafter.project(conversation.features.float()), torch.arange(len(conversation.tokens))
    )
    count = len(anchors)
    shape = (keys.shape[0], count, *keys.shape[1:])
    positions = anchors[:, None] + torch.arange(gamma)
    block = torch.full((count, gamma), mask)
    block[:, 0] = conversation.tokens[anchors]
    hidden = drafter.backbone(block, positions, keys[:, None].expand(shape), values[:, None].expand(shape), anchors)
    base = drafter.base_logits(hidden)
    rows = RowSampling.of([temperature] * count, [1.0] * count, [seed] * count, [0] * count)
    previous = block[:, 0]
    chosen: list[Tensor] = []
    for slot in range(gamma):
        bias, _ = drafter.markov_bias(previous)
        previous = choose(base[:, slot] + bias, rows, anchors + slot + 1)
        chosen.append(previous)
    drafts: list[list[int]] = torch.stack(chosen, dim=1).tolist()
    return drafts


def exact_match(tokenizer: Any, prompts: Sequence[HeldOutPrompt], answers: Sequence[list[int]]) -> float:
    """Share of prompts with an exact answer whose last number (or whole text) equals it."""
    right = total = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        if prompt.answer is None:
            continue
        text = tokenizer.decode(answer, skip_special_tokens=True).strip()
        numbers = re.findall(r"-?\d+", text)
        total += 1
        right += text == prompt.answer or (bool(numbers) and numbers[-1] == prompt.answer)
    return right / total if total else math.nan


def domain_loss(model: Any, conversations: Iterable[tuple[str, list[int]]]) -> dict[str, float]:
    """Mean negative log-likelihood in nats per token, each document from position 0: domain → loss."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    with torch.inference_mode():
        for domain, tokens in conversations:
            ids = torch.tensor([tokens[:512]])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            sums[domain] = sums.get(domain, 0.0) + float(loss)
            counts[domain] = counts.get(domain, 0) + ids.shape[1] - 1
    return {domain: sums[domain] / counts[domain] for domain in sorted(sums)}
