"""Hidden states of the tapped target layers over finished conversations, kept in bf16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from outrider.training.progress import Progress

__all__ = ["Featured", "extract", "tapped"]

BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Featured:
    """A conversation with what the target said inside: `features` [T, m·d] raw, `last` [T, d] post-norm, both bf16."""

    domain: str
    tokens: Tensor
    prompt_tokens: int
    features: Tensor
    last: Tensor


def tapped(hidden_states: Sequence[Tensor], layer_ids: Sequence[int]) -> Tensor:
    """Concatenate `hidden_states[L + 1]`: index 0 is the embedding output, which L = −1 names."""
    return torch.cat([hidden_states[layer + 1] for layer in layer_ids], dim=-1)


def extract(
    model: Any, conversations: Sequence[tuple[str, list[int], list[int]]], layer_ids: Sequence[int]
) -> list[Featured]:
    """Features of (domain, prompt, response) triples, in the order given."""
    order = sorted(range(len(conversations)), key=lambda i: len(conversations[i][1]) + len(conversations[i][2]))
    found: dict[int, Featured] = {}
    start = 0
    with Progress("features") as progress, torch.inference_mode():
        while start < len(order):
            longest, end = 0, start
            while end < len(order):
                _, prompt, response = conversations[order[end]]
                longest = max(longest, len(prompt) + len(response))
                if end > start and longest * (end - start + 1) > BATCH_TOKENS:
                    break
                end += 1
            batch = [conversations[i] for i in order[start:end]]
            # right padding under a causal mask needs no attention mask: no kept row sees a pad
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, (_, prompt, response) in enumerate(batch):
                ids[row, : len(prompt) + len(response)] = torch.tensor(prompt + response)
            output = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
            features = tapped(output.hidden_states, layer_ids).to(torch.bfloat16)
            last = output.last_hidden_state.to(torch.bfloat16)
            for row, (domain, prompt, response) in enumerate(batch):
                size = len(prompt) + len(response)
                found[order[start + row]] = Featured(
                    domain, ids[row, :size].clone(), len(prompt), features[row, :size].clone(), last[row, :size].clone()
                )
            start = end
            progress.update(start / len(order), conversations=start)
    return [found[i] for i in range(len(conversations))]
