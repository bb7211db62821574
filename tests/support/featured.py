"""Conversations of a tiny target with its states, for training and evaluating drafters in tests."""

from __future__ import annotations

from pathlib import Path

from outrider.training.features import Extractor, Featured
from support.generation import generate
from support.tiny import reference

__all__ = ["featured"]

BATCH_TOKENS = 4096


def featured(
    target: Path, prompts: list[tuple[int, ...]], layer_ids: tuple[int, ...] = (0, 1), answer: int = 24
) -> list[Featured]:
    """The target's own answers at temperature 1 (half of them greedy) with the tapped states, domains a and b."""
    model = reference(target)
    temperatures = [float(i % 2) for i in range(len(prompts))]
    answers = generate(model, prompts, temperatures, list(range(len(prompts))), [model.config.vocab_size - 1], answer)
    triples = [("ab"[i % 2], list(p), a) for i, (p, a) in enumerate(zip(prompts, answers, strict=True))]
    return Extractor(model, layer_ids, BATCH_TOKENS).run(triples)
