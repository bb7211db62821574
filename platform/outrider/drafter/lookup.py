"""Prompt lookup: propose what followed the last occurrence of the sequence's newest tokens (Saxena, 2023).

No model: on text that repeats itself (documents quoted, code edited) it is the cheapest drafter there is, and the
baseline a trained one has to beat. Longer matches are tried first, and of equally long ones the most recent wins.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LookupIndex", "lookup_blocks"]

LONGEST_NGRAM = 4
"""Tokens of the longest suffix that is looked up; longer ones rarely change which match wins."""


class LookupIndex:
    """Where every n-gram of a growing token sequence last ended: one dictionary entry per position and length."""

    def __init__(self, longest: int = LONGEST_NGRAM) -> None:
        self._longest = longest
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens; what they complete can be found from now on."""
        for token in tokens:
            self._tokens.append(token)
            end = len(self._tokens)
            for length in range(1, min(self._longest, end) + 1):
                self._ends[tuple(self._tokens[end - length : end])] = end

    def propose(self, last: int, limit: int) -> list[int]:
        """Up to `limit` tokens that followed the most recent match of the longest suffix ending in `last`.

        `last` is the newest token, not yet appended. A match may be followed by fewer tokens than `limit`, the last
        one itself included; without a match the proposal is empty.
        """
        held = self._tokens
        for length in range(min(self._longest, len(held) + 1), 0, -1):
            suffix = (*held[len(held) - length + 1 :], last)
            end = self._ends.get(suffix)
            if end is not None:
                return [*held[end : end + limit], *([last] if len(held) - end < limit else [])]
        return []


def lookup_blocks(tokens: list[int], anchors: Sequence[int], gamma: int) -> list[list[int]]:
    """Proposals of up to `gamma` tokens for each anchor position s of `tokens`, from tokens 0…s alone.

    The answer of each anchor stands where the anchor stood in `anchors`, which need not be sorted.
    """
    index = LookupIndex()
    blocks: list[list[int]] = [[] for _ in anchors]
    for place in sorted(range(len(anchors)), key=anchors.__getitem__):
        anchor = anchors[place]
        index.extend(tokens[len(index) : anchor])
        blocks[place] = index.propose(tokens[anchor], gamma)
    return blocks
