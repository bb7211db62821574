"""Prompt lookup: propose what followed the last occurrence of the sequence's newest tokens (Saxena, 2023).

No model: on text that repeats itself (documents quoted, code edited) it is the cheapest drafter there is, and the
baseline a trained one has to beat. Longer matches are tried first, and of equally long ones the most recent wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import torch
from torch import Tensor

from outrider.speculation import RowSampling, SparseProbs

__all__ = ["LookupIndex", "LookupProposer", "Match", "lookup_blocks"]

LONGEST_NGRAM = 4
"""Tokens of the longest suffix that is looked up; longer ones rarely change which match wins."""


class Match(NamedTuple):
    """Proposed tokens, and the length of the suffix they followed: 0 and no tokens without a match."""

    tokens: list[int]
    suffix: int


class LookupIndex:
    """Where every n-gram of a growing token sequence last ended: one dictionary entry per position and length."""

    def __init__(self, longest: int = LONGEST_NGRAM) -> None:
        self._longest = longest
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def since(self, position: int) -> list[int]:
        """The tokens from a position on."""
        return self._tokens[position:]

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens; what they complete can be found from now on."""
        for token in tokens:
            self._tokens.append(token)
            end = len(self._tokens)
            for length in range(1, min(self._longest, end) + 1):
                self._ends[tuple(self._tokens[end - length : end])] = end

    def propose(self, last: int, limit: int) -> Match:
        """Up to `limit` tokens that followed the most recent match of the longest suffix ending in `last`.

        `last` is the newest token, not yet appended. A match may be followed by fewer tokens than `limit`, the last
        one itself included; without a match the proposal is empty.
        """
        held = self._tokens
        for length in range(min(self._longest, len(held) + 1), 0, -1):
            suffix = (*held[len(held) - length + 1 :], last)
            end = self._ends.get(suffix)
            if end is not None:
                return Match([*held[end : end + limit], *([last] if len(held) - end < limit else [])], length)
        return Match([], 0)


def lookup_blocks(tokens: list[int], anchors: Sequence[int], gamma: int) -> list[list[int]]:
    """Proposals of up to `gamma` tokens for each anchor position s of `tokens`, from tokens 0…s alone.

    The answer of each anchor stands where the anchor stood in `anchors`, which need not be sorted.
    """
    index = LookupIndex()
    blocks: list[list[int]] = [[] for _ in anchors]
    for place in sorted(range(len(anchors)), key=anchors.__getitem__):
        anchor = anchors[place]
        index.extend(tokens[len(index) : anchor])
        blocks[place] = index.propose(tokens[anchor], gamma).tokens
    return blocks


class LookupProposer:
    """Prompt lookup behind a draft server, for any target: it reads token ids alone.

    Its confidence is the share of proposed tokens that came true after suffixes of that length, over all sequences, and
    starts from a prior: two tries at 0.7. What came true is read off the appended tokens.
    """

    _PRIOR_TRIES = 2.0
    _PRIOR_RATE = 0.7

    def __init__(self, vocab_size: int, context_tokens: int, block_size: int) -> None:
        self.vocab_size = vocab_size
        self.context_tokens = context_tokens
        self.block_size = block_size
        self.row_size = 0
        self.fingerprint = ""
        self._held: dict[int, LookupIndex] = {}
        self._open: dict[int, tuple[int, Match]] = {}
        self._free: list[int] = []
        self._tried = [self._PRIOR_TRIES] * (LONGEST_NGRAM + 1)
        self._true = [self._PRIOR_TRIES * self._PRIOR_RATE] * (LONGEST_NGRAM + 1)

    @property
    def held_slots(self) -> int:
        """Slots in use."""
        return len(self._held)

    def acquire(self) -> int:
        """A free slot, empty."""
        slot = heappop(self._free) if self._free else len(self._held)
        self._held[slot] = LookupIndex()
        return slot

    def release(self, slot: int) -> None:
        """Forget a slot's tokens and give it back."""
        del self._held[slot]
        self._open.pop(slot, None)
        heappush(self._free, slot)

    def length(self, slot: int) -> int:
        """Tokens a slot holds."""
        return len(self._held[slot])

    def append(self, takers: list[tuple[int, int]], positions: Tensor, rows: Tensor, tokens: Tensor) -> None:
        """Take in committed tokens; positions are implied, and rows are not read."""
        del positions, rows
        rest = tokens.tolist()
        for slot, count in takers:
            self._held[slot].extend(rest[:count])
            rest = rest[count:]

    def propose(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor]:
        """What followed the last match in each slot; greedy whatever the row's sampling."""
        del sampling
        tokens = torch.zeros(len(slots), self.block_size, dtype=torch.int64)
        confidence = torch.full(tokens.shape, -torch.inf)
        for row, (slot, anchor, position) in enumerate(zip(slots, anchors.tolist(), positions.tolist(), strict=True)):
            self._learn(slot, anchor)
            match = self._held[slot].propose(anchor, self.block_size)
            self._open[slot] = (position, match)
            count = len(match.tokens)
            tokens[row, :count] = torch.tensor(match.tokens, dtype=torch.int64)
            rate = self._true[match.suffix] / self._tried[match.suffix]
            confidence[row, :count] = torch.logit(torch.tensor(rate, dtype=torch.float32))
        return tokens, confidence

    def propose_mixed(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor, SparseProbs]:
        """The same tokens, each certain."""
        tokens, confidence = self.propose(slots, anchors, positions, sampling)
        assert sampling.rounds is not None
        return tokens, confidence, SparseProbs.certain(tokens[sampling.rounds >= 0])

    def _learn(self, slot: int, anchor: int) -> None:
        """Score the slot's last proposal by what stands after its anchor now."""
        position, match = self._open.pop(slot, (0, Match([], 0)))
        for proposed, truth in zip(match.tokens, [*self._held[slot].since(position + 1), anchor], strict=False):
            self._tried[match.suffix] += 1
            if proposed != truth:
                break
            self._true[match.suffix] += 1
