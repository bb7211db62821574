"""Every sampling parameter applied to one row the plain way: transformers' own processors where it has them.

The reference of the whole request surface: nothing here is batched, incremental or aware of drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from outrider.speculation import RowSampling, race_noise
from outrider.types import SamplingParams

__all__ = ["SURFACE", "plain_generate", "row_probs", "shaped"]

SURFACE: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 1.2, "min_p": 0.15},
    {"repetition_penalty": 1.6},
    {"presence_penalty": 1.2, "frequency_penalty": -0.9},
    {"logit_bias": ((2, 1.5), (6, -2.0))},
    {
        "temperature": 0.9,
        "top_k": 6,
        "top_p": 0.95,
        "min_p": 0.02,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.8,
        "logit_bias": ((1, 0.7),),
    },
]
"""Every way of shaping the distribution of a vocabulary of eight, alone and together."""


def shaped(
    logits: Tensor,
    prompt: Sequence[int],
    output: Sequence[int],
    sampling: SamplingParams,
    ends: Sequence[int] = (),
) -> Tensor:
    """Logits fp32 [V] after penalties, bias and withheld end tokens."""
    scores = logits.float().clone()
    if sampling.repetition_penalty != 1:
        penalty = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
        scores = penalty(torch.tensor([[*prompt, *output]]), scores[None])[0]
    for token in set(output):
        scores[token] -= sampling.frequency_penalty * list(output).count(token) + sampling.presence_penalty
    for token, addend in sampling.logit_bias:
        scores[token] += addend
    if len(output) < sampling.min_tokens:
        for token in (*ends, *sampling.stop_token_ids):
            scores[token] = -torch.inf
    return scores


def row_probs(scores: Tensor, sampling: SamplingParams) -> Tensor:
    """The distribution fp32 [V] that shaped logits are sampled from, temperature above 0."""
    scores = scores[None]
    if sampling.temperature != 1:
        scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(min(sampling.top_k, scores.shape[-1]))(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    return torch.softmax(scores, dim=-1)[0]


@torch.inference_mode()
def plain_generate(
    model: Any,
    prompt: Sequence[int],
    sampling: SamplingParams,
    ends: Sequence[int] = (),
    allowed: Callable[[list[int]], set[int]] | None = None,
) -> tuple[list[int], list[Tensor]]:
    """Tokens one at a time by whole forwards, and the log-probabilities [V] each was chosen from.

    allowed: the tokens a constraint allows after an output.
    """
    output: list[int] = []
    logprobs: list[Tensor] = []
    stops = {*(() if sampling.ignore_eos else ends), *sampling.stop_token_ids}
    while len(output) < sampling.max_tokens and not (output and output[-1] in stops):
        logits = model(torch.tensor([[*prompt, *output]])).logits[0, -1]
        scores = shaped(logits, prompt, output, sampling, () if sampling.ignore_eos else ends)
        if allowed is not None:
            kept = torch.tensor(sorted(allowed(output)))
            scores = torch.full_like(scores, -torch.inf).index_copy(0, kept, scores[kept])
        logprobs.append(torch.log_softmax(scores, dim=-1))
        if sampling.temperature == 0:
            output.append(int(scores.argmax()))
            continue
        rows = RowSampling.of([1.0], [1.0], [sampling.seed], [0])
        noise = race_noise(rows.seeds, rows.choices, torch.tensor([len(prompt) + len(output)]), len(scores))[0]
        output.append(int((noise / row_probs(scores, sampling)).argmin()))
    return output, logprobs
