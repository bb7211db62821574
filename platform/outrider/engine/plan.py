"""What one step is going to compute, and the flat batch that says so to the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from outrider.engine.attention import Span
from outrider.engine.batch import FlatBatch
from outrider.engine.sequence import Sequence
from outrider.speculation import RowSampling

__all__ = ["Plan", "flatten", "row_sampling"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Each decoding sequence with its admitted draft, each prefilling one with the length of its chunk.

    sampling has one row per decoding sequence, then one per prefilling sequence; draft_s is what waiting for the
    drafter took.
    """

    decoding: list[tuple[Sequence, list[int]]]
    prefill: list[tuple[Sequence, int]]
    sampling: RowSampling
    draft_s: float

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not self.decoding and not self.prefill

    def prefixes(self) -> list[list[int]]:
        """The tokens before each logit row's choice: a draft's rows see the draft."""
        decoding = [s.tokens + draft[:k] for s, draft in self.decoding for k in range(len(draft) + 1)]
        return decoding + [s.tokens for s, length in self.prefill if s.num_computed + length == len(s.tokens)]


def row_sampling(sequences: list[Sequence]) -> RowSampling:
    """One row of sampling parameters per sequence."""
    requests = [sequence.request for sequence in sequences]
    return RowSampling.of(
        [r.sampling.temperature for r in requests],
        [r.sampling.top_p for r in requests],
        [r.sampling.seed for r in requests],
        [r.choice_index for r in requests],
    )


def flatten(plan: Plan, device: torch.device) -> tuple[FlatBatch, list[int]]:
    """The flat batch of a plan, and for every logit row the sampling row it belongs to.

    A decoding sequence wants logits of its anchor and of every draft token, a prompt only of its last token.
    """
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    logit_rows: list[int] = []
    owners: list[int] = []
    for row, (sequence, draft) in enumerate(plan.decoding):
        start, length = sequence.num_computed, 1 + len(draft)
        logit_rows.extend(range(len(tokens), len(tokens) + length))
        owners.extend([row] * length)
        tokens += [sequence.tokens[-1], *draft]
        positions.extend(range(start, start + length))
        spans.append(Span(start, length, sequence.slots))
    for row, (sequence, length) in enumerate(plan.prefill, start=len(plan.decoding)):
        start = sequence.num_computed
        tokens += sequence.tokens[start : start + length]
        positions.extend(range(start, start + length))
        spans.append(Span(start, length, sequence.slots))
        if start + length == len(sequence.tokens):
            logit_rows.append(len(tokens) - 1)
            owners.append(row)
    batch = FlatBatch(
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
        tuple(spans),
        torch.tensor(logit_rows, device=device) if logit_rows else None,
    )
    return batch, owners
