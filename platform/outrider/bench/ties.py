"""Equal, tied or wrong: comparing two answers that batched arithmetic may tear apart at an argmax tie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from outrider.speculation import RowSampling, race_noise, token_probs

__all__ = ["TIE_GAP", "Comparison", "Outcome", "compare", "first_difference", "greedy_gap", "seeded_gap"]

TIE_GAP = 1e-4
"""Largest top-two gap, in logits or in log p + G, that counts as a tie."""


class Outcome(StrEnum):
    """How an answer relates to its reference."""

    EQUAL = "equal"
    TIE = "tie"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome; position of the first difference and the reference's gap there, None when equal."""

    outcome: Outcome
    position: int | None = None
    gap: float | None = None


def first_difference(reference: Sequence[int], answer: Sequence[int]) -> int | None:
    """Where the answers part; the end of the shorter one when it begins the other; None when they are equal."""
    for place, (expected, found) in enumerate(zip(reference, answer, strict=False)):
        if expected != found:
            return place
    return None if len(reference) == len(answer) else min(len(reference), len(answer))


def compare(reference: Sequence[int], answer: Sequence[int], gap_at: Callable[[int], float]) -> Comparison:
    """`gap_at(n)` is the reference's own top-two gap for its token n.

    Answers of which one begins the other cannot have parted at a tie: somebody dropped or invented tokens.
    """
    place = first_difference(reference, answer)
    if place is None:
        return Comparison(Outcome.EQUAL)
    gap = gap_at(place)
    tied = gap < TIE_GAP and place < min(len(reference), len(answer))
    return Comparison(Outcome.TIE if tied else Outcome.MISMATCH, place, gap)


def greedy_gap(logits: Tensor) -> float:
    """Top-two gap of logits [V]."""
    top = logits.topk(2).values
    return float(top[0] - top[1])


def seeded_gap(logits: Tensor, *, temperature: float, top_p: float, seed: int, position: int) -> float:
    """Top-two gap of log p + G for the token at absolute `position`; 0 when a nucleus border decides the winner."""
    if temperature == 0:
        return greedy_gap(logits)
    scores = [
        _scores(logits, temperature, min(1.0, border), seed, position)
        for border in ({top_p} if top_p == 1 else (top_p - TIE_GAP, top_p, top_p + TIE_GAP))
    ]
    if len({int(score.argmax()) for score in scores}) > 1:
        return 0.0
    return min(greedy_gap(score) for score in scores)


def _scores(logits: Tensor, temperature: float, top_p: float, seed: int, position: int) -> Tensor:
    """log p + G [V], with G = −log E."""
    rows = RowSampling.of([temperature], [top_p], [seed], [0])
    noise = race_noise(rows.seeds, rows.choices, torch.tensor([position]), logits.shape[-1])
    return (token_probs(logits[None], rows).log() - noise.log())[0]
