"""How a drafter picks each slot's token: by the noise both sides share, or from a q that goes along with it.

Shapes: R rows, γ block size, V vocabulary, w tokens in a slot's q. Slots are counted from 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from outrider.speculation import SPARSE_DRAFT, RowSampling, SparseDraft, SparseProbs, race, race_noise

__all__ = ["CoupledPick", "MixedPick", "Pick", "block_noise", "chance_logit", "drawn_at", "expected_chance_logit"]

_CERTAIN = 1e-6


class Pick(Protocol):
    """Asked slot after slot."""

    def __call__(self, slot: int, logits: Tensor) -> Tensor:
        """A token for every row, int64 [R], from the slot's logits [R, V]."""

    def chance(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Confidence logits fp32 [R] in what was picked last, for a drafter that has none of its own."""


class CoupledPick:
    """The race by seed and position that the target runs as well; positions int64 [R, γ] are those of the tokens."""

    def __init__(self, sampling: RowSampling, positions: Tensor, vocab: int) -> None:
        self._sampling = sampling
        self._noise = block_noise(sampling, positions, vocab)

    def __call__(self, slot: int, logits: Tensor) -> Tensor:
        return race(logits, self._sampling, None if self._noise is None else self._noise[:, slot])

    def chance(self, logits: Tensor, tokens: Tensor) -> Tensor:
        return chance_logit(logits, tokens)


class MixedPick:
    """For a batch in which some rows are under the rejection rule: their q is kept. The others race as ever."""

    def __init__(self, sampling: RowSampling, positions: Tensor, vocab: int, draft: SparseDraft = SPARSE_DRAFT) -> None:
        assert sampling.rounds is not None
        under = sampling.rounds >= 0
        self._drawn, self._raced = under.nonzero().flatten(), (~under).nonzero().flatten()
        self._sampling, self._draft = sampling.index(self._drawn), draft
        self._noise = draft.noise(self._sampling, positions.shape[1], vocab)
        raced = sampling.index(self._raced)
        raced = replace(raced, random=bool((raced.temperature > 0).any()))
        self._coupled = CoupledPick(raced, positions[self._raced], vocab)
        self._q: list[SparseProbs] = []

    @property
    def q(self) -> SparseProbs:
        """Of the rows under the rejection rule, in their order: [nr, γ, w]."""
        return SparseProbs(
            torch.stack([each.tokens for each in self._q], 1), torch.stack([each.probs for each in self._q], 1)
        )

    def __call__(self, slot: int, logits: Tensor) -> Tensor:
        tokens, q = self._draft.draw(self._rows(logits), self._sampling, self._noise[:, slot])
        self._q.append(q)
        if not len(self._raced):
            return tokens
        picked = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        picked[self._drawn] = tokens
        picked[self._raced] = self._coupled(slot, logits[self._raced])
        return picked

    def chance(self, logits: Tensor, tokens: Tensor) -> Tensor:
        expected = expected_chance_logit(self._rows(logits), self._q[-1])
        if not len(self._raced):
            return expected
        chances = torch.empty(len(logits), device=logits.device)
        chances[self._drawn] = expected
        chances[self._raced] = self._coupled.chance(logits[self._raced], tokens[self._raced])
        return chances

    def _rows(self, logits: Tensor) -> Tensor:
        return logits[self._drawn] if len(self._raced) else logits


def drawn_at(positions: Tensor, gamma: int) -> Tensor:
    """Positions int64 [R, γ] of the tokens that follow anchors at `positions` [R]."""
    return positions[:, None] + torch.arange(1, gamma + 1, device=positions.device)


def block_noise(sampling: RowSampling, positions: Tensor, vocab: int) -> Tensor | None:
    """Race noise [R, γ, V] for the tokens to stand at positions [R, γ]; None when all is greedy."""
    if not sampling.random:
        return None
    gamma = positions.shape[1]
    seeds, choices = sampling.seeds.repeat_interleave(gamma), sampling.choices.repeat_interleave(gamma)
    return race_noise(seeds, choices, positions.flatten(), vocab).view(*positions.shape, vocab)


def chance_logit(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-odds fp32 [R] of the drafted `tokens` [R] under softmax(logits [R, V]) at temperature 1.

    The confidence of a drafter that has none of its own: a proxy, which calibration may scale. It looks at the drawn
    token, which a scheduler may do only because coupled verification is lossless under any scheduler.
    """
    chance = torch.softmax(logits.float(), dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
    return torch.logit(chance, eps=_CERTAIN)


def expected_chance_logit(logits: Tensor, q: SparseProbs) -> Tensor:
    """What `chance_logit` tells of a token drawn from q [R, w] on average, fp32 [R], without looking at the one drawn.

    Under the rejection rule how deep a draft is verified must not depend on its last token.
    """
    chances = torch.softmax(logits.float(), dim=-1).gather(-1, q.tokens)
    return torch.logit((q.probs * chances).sum(dim=-1), eps=_CERTAIN)
