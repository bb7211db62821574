"""Draft distributions small enough to ship: the renormalised best tokens of the drafter's logits, and draws from them.

q is *defined* as what is kept here and drawn from, so leaving the rest of the vocabulary out costs acceptance and never
exactness. Its probabilities, not their logarithms, are kept: the race divides by these very fp32 numbers.

Shapes: R rows, w width (tokens kept), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.speculation.noise import Stream, stream_noise
from outrider.speculation.sampling import RowSampling

__all__ = ["SPARSE_DRAFT", "SparseDraft", "SparseProbs"]


@dataclass(frozen=True, slots=True, eq=False)
class SparseProbs:
    """Distributions over w tokens: tokens int64 and probs fp32, both [..., w]; a place of probability 0 is empty."""

    tokens: Tensor
    probs: Tensor

    @classmethod
    def empty(cls, *shape: int) -> SparseProbs:
        """No mass anywhere."""
        return cls(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape))

    @classmethod
    def certain(cls, tokens: Tensor) -> SparseProbs:
        """All mass on `tokens` [...]."""
        return cls(tokens[..., None], torch.ones(*tokens.shape, 1, device=tokens.device))

    def of(self, tokens: Tensor) -> Tensor:
        """The probability of one token [...] each, fp32 [...]."""
        return self.probs.masked_fill(self.tokens != tokens[..., None], 0.0).sum(dim=-1)

    def to(self, device: torch.device | str) -> SparseProbs:
        """The same on a device."""
        return SparseProbs(self.tokens.to(device), self.probs.to(device))


@dataclass(frozen=True, slots=True)
class SparseDraft:
    """How a drafter turns logits into q: at most `width` tokens; the request's temperature and cuts, or neither."""

    width: int = 64
    tempered: bool = True
    cut: bool = True

    def probs(self, logits: Tensor, rows: RowSampling) -> SparseProbs:
        """q of logits [R, V]: what `token_probs` says of its most probable tokens, renormalised."""
        scaled = logits.float()
        if self.tempered:
            scaled = scaled / torch.where(rows.temperature > 0, rows.temperature, 1.0)[:, None]
        best, tokens = scaled.topk(min(self.width, scaled.shape[-1]), dim=-1)
        probs = torch.exp(best - scaled.logsumexp(dim=-1, keepdim=True))
        if self.cut and rows.cuts:
            probs = _cut(probs, rows)
        return SparseProbs(tokens, probs / probs.sum(dim=-1, keepdim=True))

    def noise(self, rows: RowSampling, gamma: int, vocab: int) -> Tensor:
        """E [R, γ, w] for the draws of a block's slots, by place in q; rows have `rounds`."""
        assert rows.rounds is not None
        seeds, choices, rounds = (x.repeat_interleave(gamma) for x in (rows.seeds, rows.choices, rows.rounds))
        slots = torch.arange(gamma, device=rounds.device).repeat(len(rows))
        noise = stream_noise(seeds, choices, rounds, slots, Stream.DRAFT, min(self.width, vocab))
        return noise.view(len(rows), gamma, -1)

    def draw(self, logits: Tensor, rows: RowSampling, noise: Tensor) -> tuple[Tensor, SparseProbs]:
        """A token [R] by one slot's noise [R, w], and the q it was drawn from."""
        found = self.probs(logits, rows)
        place = (noise / found.probs).argmin(dim=-1, keepdim=True)
        return found.tokens.gather(1, place).squeeze(1), found


SPARSE_DRAFT = SparseDraft()
"""What drafters do unless told otherwise."""


def _cut(probs: Tensor, rows: RowSampling) -> Tensor:
    """Descending probabilities [R, w] with what top-k, nucleus and min-p drop set to zero; the first always stays."""
    if rows.top_k is not None:
        ranks = torch.arange(probs.shape[-1], device=probs.device)
        probs = probs.masked_fill((ranks >= rows.top_k[:, None]) & (rows.top_k > 0)[:, None], 0.0)
    if rows.nucleus:
        limit = torch.where(rows.top_p < 1, rows.top_p.clamp(min=1e-9), torch.inf)[:, None]
        if rows.top_k is not None:  # a share of what top-k kept
            limit = torch.where((rows.top_k > 0)[:, None], limit * probs.sum(dim=-1, keepdim=True), limit)
        probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= limit, 0.0)
    if rows.min_p is not None:
        probs = probs.masked_fill(probs < probs[:, :1] * rows.min_p[:, None], 0.0)
    return probs
