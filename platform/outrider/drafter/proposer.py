"""What a draft server asks of a drafter, whatever its kind: contexts by slot, and blocks for the slots that ask.

Shapes: R proposing sequences, γ block size, n appended positions.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from outrider.speculation import RowSampling, SparseProbs

__all__ = ["Proposer"]


class Proposer(Protocol):
    """Holds the contexts of many sequences, each in a slot, and proposes what may follow them.

    row_size: width of the context rows it reads, or 0 when it reads token ids alone; fingerprint: the projection
    those rows must come from, as `projection_fingerprint` gives it.
    """

    vocab_size: int
    context_tokens: int
    block_size: int
    row_size: int
    fingerprint: str

    @property
    def held_slots(self) -> int:
        """Slots in use."""

    def acquire(self) -> int:
        """A free slot, empty."""

    def release(self, slot: int) -> None:
        """Forget a slot's context and give it back."""

    def length(self, slot: int) -> int:
        """Positions a slot holds."""

    def append(self, takers: list[tuple[int, int]], positions: Tensor, rows: Tensor, tokens: Tensor) -> None:
        """Add the next positions of distinct sequences: (slot, count) pairs, then int64 [n], [n, row_size], int64 [n],
        sequence after sequence, all on the CPU.
        """

    def propose(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor]:
        """Token ids int64 and confidence logits fp32 [R, γ] for ascending slots that hold exactly `positions` [R] each.

        anchors: int64 [R], the token at that position; all on the CPU. A slot without a token has confidence minus
        infinity, as have those after it.
        """

    def propose_mixed(
        self, slots: list[int], anchors: Tensor, positions: Tensor, sampling: RowSampling
    ) -> tuple[Tensor, Tensor, SparseProbs]:
        """As `propose`, for a batch with rows under the rejection rule: those that have a round in `sampling.rounds`.

        Their tokens are drawn from the q that comes third, [nr, γ, w] in their order, and their confidences depend on
        no draw of their own slot or after it.
        """
