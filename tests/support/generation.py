"""Batched sampling from a target, by the same coupled noise the engine serves with: seeds make it repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from outrider.speculation.sampling import RowSampling, choose

__all__ = ["generate"]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    seeds: Sequence[int],
    eos_token_ids: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Responses as token ids, the stop token included where one was reached.

    Prompts are padded on the left; finished rows leave the batch once they are a quarter of it.
    """
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    pad = int(eos_token_ids[-1])
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
    rows = RowSampling.of(list(temperatures), [1.0] * len(prompts), list(seeds), [0] * len(prompts))
    stops = torch.tensor(list(eos_token_ids), device=device)
    alive = torch.arange(len(prompts), device=device)
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    responses: list[list[int]] = [[] for _ in prompts]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache: Any = None
    with torch.inference_mode():
        for step in range(max_new_tokens):
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache = output.past_key_values
            chosen = choose(output.logits[:, -1], rows.index(alive), lengths[alive] + step)
            for row, token, active in zip(alive.tolist(), chosen.tolist(), running.tolist(), strict=True):
                if active:
                    responses[row].append(token)
            running = running & ~torch.isin(chosen, stops)
            left = int(running.sum())
            if left == 0:
                break
            if left <= 0.75 * len(alive):
                kept = running.nonzero().squeeze(1)
                cache.batch_select_indices(kept)
                alive, chosen, mask, running = alive[kept], chosen[kept], mask[kept], running[kept]
            ids = chosen[:, None]
            mask = torch.cat((mask, mask.new_ones(len(alive), 1)), dim=1)
            positions = (lengths[alive] + step)[:, None]
    return responses
