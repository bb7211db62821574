"""What one step is going to compute, and the flat batch that says so to the target."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from outrider.engine.attention import Span
from outrider.engine.batch import FlatBatch
from outrider.engine.drafting import DraftedProbs
from outrider.engine.sequence import Sequence
from outrider.scheduling import Budget
from outrider.speculation import RowSampling

__all__ = ["NOBODY", "LogitRows", "Outline", "Plan", "cut_refused", "flatten", "row_sampling"]

NO_BUDGET = Budget(np.zeros(0, dtype=np.bool_), tokens=0)
NO_DRAFT: list[int] = []
NOBODY: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """Each decoding sequence with its admitted draft, each prefilling one with the length of its chunk.

    sampling has one row per decoding sequence, then one per prefilling sequence; draft_s is what waiting for the
    drafter took. q: what the drafts under the rejection rule were drawn from; refused: keys of sequences under that
    rule whose draft was admitted one token further, to one that cannot follow; expected: tokens expected to be
    accepted, by decoding sequence.
    """

    decoding: list[tuple[Sequence, list[int]]]
    prefill: list[tuple[Sequence, int]]
    sampling: RowSampling
    draft_s: float
    q: DraftedProbs | None = None
    refused: frozenset[int] = NOBODY
    expected: list[float] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not self.decoding and not self.prefill

    @property
    def decoding_sequences(self) -> list[Sequence]:
        """Those that decode, without their drafts."""
        return [sequence for sequence, _ in self.decoding]

    def chosen(self) -> list[tuple[Sequence, list[int]]]:
        """Who has a token chosen, in the order of the rows, with the draft: one row more than it has tokens."""
        ends = [(s, NO_DRAFT) for s, length in self.prefill if s.num_computed + length == len(s.tokens)]
        return self.decoding + ends


@dataclass(slots=True)
class Outline:
    """A step before anything is drafted for it: who decodes, who prefills how much, how they sample.

    caps: largest depth of each decoding request; budget: whom to draft for and how many tokens to verify; rows: the
    decoding requests that are drafted for; observed: places among those whose whole block is verified.
    """

    decoding: list[Sequence]
    prefill: list[tuple[Sequence, int]]
    sampling: RowSampling
    caps: list[int] = field(default_factory=list)
    budget: Budget = NO_BUDGET
    rows: list[int] = field(default_factory=list)
    observed: set[int] = field(default_factory=set)
    room_tokens: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not self.decoding and not self.prefill


@dataclass(frozen=True, slots=True)
class LogitRows:
    """What the batch's logit rows are for, by their place among them.

    chosen: where a token is chosen; owners: the sampling row of each of those; prompt: (sequence, first row, count) of
    prompt tokens whose log-probability is asked for.
    """

    chosen: list[int]
    owners: list[int]
    prompt: list[tuple[Sequence, int, int]]


def cut_refused(sequences: list[Sequence], drafts: list[list[int]]) -> frozenset[int]:
    """Cut drafts under the rejection rule, once admitted, to what can be accepted; keys of those that lost something.

    Only then: how deep such a draft is admitted must not depend on its tokens. The coupled rule has no such need.
    """
    refused = set()
    for row, sequence in enumerate(sequences):
        if sequence.rejects and sequence.shaping is not None:
            fits = sequence.shaping.admissible(drafts[row])
            if fits < len(drafts[row]):
                refused.add(sequence.key)
                drafts[row] = drafts[row][:fits]
    return frozenset(refused)


def row_sampling(sequences: list[Sequence]) -> RowSampling:
    """One row of sampling parameters per sequence."""
    requests = [sequence.request for sequence in sequences]
    return RowSampling.of(
        [r.sampling.temperature for r in requests],
        [r.sampling.top_p for r in requests],
        [r.sampling.seed for r in requests],
        [r.choice_index for r in requests],
        [r.sampling.top_k for r in requests],
        [r.sampling.min_p for r in requests],
    )


def flatten(plan: Plan, device: torch.device) -> tuple[FlatBatch, LogitRows]:
    """The flat batch of a plan, and what its logit rows are for.

    A decoding sequence wants logits of its anchor and of every draft token, a prompt of its last token, and of those
    before it only where their log-probabilities are asked for.
    """
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    logit_rows: list[int] = []
    rows = LogitRows([], [], [])
    for row, (sequence, draft) in enumerate(plan.decoding):
        start, length = sequence.num_computed, 1 + len(draft)
        logit_rows.extend(range(len(tokens), len(tokens) + length))
        rows.owners.extend([row] * length)
        tokens += [sequence.tokens[-1], *draft]
        positions.extend(range(start, start + length))
        spans.append(Span(start, length, sequence.slots))
    rows.chosen.extend(range(len(logit_rows)))
    for row, (sequence, length) in enumerate(plan.prefill, start=len(plan.decoding)):
        start = sequence.num_computed
        told = sequence.prompt_rows(length)
        if told:
            rows.prompt.append((sequence, len(logit_rows), len(told)))
            logit_rows.extend(range(len(tokens) + told.start - start, len(tokens) + told.stop - start))
        tokens += sequence.tokens[start : start + length]
        positions.extend(range(start, start + length))
        spans.append(Span(start, length, sequence.slots))
        if start + length == len(sequence.tokens):
            rows.chosen.append(len(logit_rows))
            rows.owners.append(row)
            logit_rows.append(len(tokens) - 1)
    batch = FlatBatch(
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
        tuple(spans),
        torch.tensor(logit_rows, device=device) if logit_rows else None,
    )
    return batch, rows
