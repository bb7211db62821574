"""The rejection (maximal coupling) rule: accept x with chance min(1, p/q), else draw from what p has more than q.

Emitted tokens follow p exactly (Leviathan et al., arXiv 2211.17192) if q is what was sampled, if the draws of draft,
acceptance and residual are independent, if none is used twice (hence a round number in their keys, never a position),
and if how deep a draft is verified does not depend on its last token or on anything after it.

Shapes: R sequences, n rows in all, sequence after sequence: ℓ+1 of each for a draft of ℓ; V vocabulary, w width of q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.speculation.fused import fused_verify
from outrider.speculation.noise import Stream, stream_noise, stream_uniform
from outrider.speculation.sampling import RowSampling, token_probs
from outrider.speculation.sparse import SparseProbs

__all__ = ["DraftedRows", "RejectionRule", "residual"]


@dataclass(frozen=True, slots=True, eq=False)
class DraftedRows:
    """What was drafted for each of n rows: tokens int64 [n], and q [n, w] they were drawn from.

    judged bool [n]: whether the row's token may be accepted at all. A row that is not judged ends its round: from p
    where q has no mass (nothing was admitted after it: the bonus), from the residual where it has (its token cannot
    follow: a sure rejection). lengths: rows of each sequence; the last one is never judged.
    """

    tokens: Tensor
    q: SparseProbs
    judged: Tensor
    lengths: Sequence[int]


def residual(p: Tensor, q: SparseProbs) -> Tensor:
    """max(p − q, 0) of distributions [R, V], unnormalised; p where nothing is left. Without mass in q that is p."""
    left = p.scatter_add(-1, q.tokens, -q.probs).clamp_(min=0.0)
    return torch.where(left.sum(dim=-1, keepdim=True) > 0, left, p)


class RejectionRule:
    """How the engine turns target logits and a draft's q into tokens."""

    def accepts(self, p: Tensor, rows: RowSampling, slots: Tensor, drafted: DraftedRows) -> Tensor:
        """Whether each row's drafted token, taken alone, is accepted, bool [n]; p [n, V], slots int64 [n]."""
        assert rows.rounds is not None
        u = stream_uniform(rows.seeds, rows.choices, rows.rounds, slots, Stream.ACCEPT, 1).squeeze(1)
        chance = p.gather(1, drafted.tokens[:, None]).squeeze(1)
        return (u * drafted.q.of(drafted.tokens) < chance) & drafted.judged

    def last(self, p: Tensor, q: SparseProbs, rows: RowSampling, slots: Tensor) -> Tensor:
        """The token that ends each sequence's round, int64 [R]: from the residual [R, V], which is p for a bonus."""
        assert rows.rounds is not None
        noise = stream_noise(rows.seeds, rows.choices, rows.rounds, slots, Stream.FINAL, p.shape[-1])
        return (noise / residual(p, q)).argmin(dim=-1)

    def verify(self, logits: Tensor, rows: RowSampling, drafted: DraftedRows) -> tuple[list[int], list[int]]:
        """Of each sequence how many drafted tokens are accepted, and the token after them.

        logits fp32 [n, V], already shaped by what each row's request asks; rows have `rounds`.
        """
        if logits.device.type == "cuda":
            return fused_verify(logits, rows, drafted)
        p = token_probs(logits, rows)
        slots = torch.cat([torch.arange(length) for length in drafted.lengths])
        accepted, ends = [], []
        first = 0
        fits = self.accepts(p, rows, slots, drafted).tolist()
        for length in drafted.lengths:
            count = fits.index(False, first, first + length) - first  # the last row of a sequence never fits
            accepted.append(count)
            ends.append(first + count)
            first += length
        at = torch.tensor(ends)
        q = SparseProbs(drafted.q.tokens[at], drafted.q.probs[at])
        return accepted, self.last(p[at], q, rows.index(at), slots[at]).tolist()
