"""What counts as the same output: equal tokens, or a first difference where the reference itself was undecided.

Floating point makes batched and single matrix products differ in the last bits. A tie counts only when the reference's
own top-two gap at the first difference is below 1e-4 (greedy: of logits; seeded: of log p + G, or a nucleus border that
close), and on at most one prompt in a hundred.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from outrider.speculation import RowSampling, race_noise
from outrider.types import SamplingParams

__all__ = ["TIE", "allowed_ties", "first_difference", "greedy_reference", "is_tie", "seeded_gap"]

TIE = 1e-4


def allowed_ties(prompts: int) -> int:
    """How many of `prompts` outputs may end in a tie: one in a hundred."""
    return prompts // 100


def first_difference(ours: Sequence[int], reference: Sequence[int]) -> int | None:
    """Index of the first differing token (a missing one differs), or None."""
    for place in range(max(len(ours), len(reference))):
        if place >= len(ours) or place >= len(reference) or ours[place] != reference[place]:
            return place
    return None


@torch.inference_mode()
def greedy_reference(
    model: Any, prompt: Sequence[int], max_tokens: int, **kwargs: Any
) -> tuple[list[int], list[float]]:
    """`transformers.generate` on one prompt: its tokens and its own top-two logit gap at each of them."""
    ids = torch.tensor([list(prompt)])
    result = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **kwargs,
    )
    tokens = result.sequences[0, len(prompt) :].tolist()
    top = torch.stack([step[0] for step in result.logits]).float().topk(2).values
    return tokens, (top[:, 0] - top[:, 1]).tolist()


def is_tie(difference: int, gaps: Sequence[float]) -> bool:
    """Whether the reference was undecided at its first difference."""
    return difference < len(gaps) and gaps[difference] < TIE


@torch.inference_mode()
def seeded_gap(model: Any, tokens: Sequence[int], sampling: SamplingParams, choice_index: int = 0) -> float:
    """How decided the seeded choice after `tokens` was: the smaller of the race's gap in log p + G and the distance
    of the nucleus border from the nearest cumulative mass."""
    logits: Tensor = model(torch.tensor([list(tokens)])).logits[0, -1].double() / sampling.temperature
    probs = torch.softmax(logits, dim=-1)
    ordered = probs.sort(descending=True).values
    border = 1.0
    kept = torch.ones_like(probs, dtype=torch.bool)
    if sampling.top_p < 1:
        before = ordered.cumsum(0) - ordered
        border = float((before - sampling.top_p).abs().min())
        kept = probs >= ordered[before < sampling.top_p][-1]
    rows = RowSampling.of([sampling.temperature], [sampling.top_p], [sampling.seed], [choice_index])
    noise = race_noise(rows.seeds, rows.choices, torch.tensor([len(tokens)]), len(probs))[0].double()
    score = (probs.log() - noise.log()).masked_fill(~kept, -torch.inf)
    best = score.topk(2).values
    return min(border, float(best[0] - best[1]))
