"""Block tables on the device: one row per running sequence, changed by what was added since the last round.

A table of 256 sequences of 32,768 positions is 2 MB; what a round adds is a few numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outrider.engine.sequence import Sequence

__all__ = ["BlockTables"]


class BlockTables:
    """`entries` int32 [lanes + 1, M]: block of every M-th part of a sequence's positions; its last row takes padding.

    A lane belongs to a sequence while it runs. Sequences' blocks are appended to while they hold any, and all given
    back at once, so a lane follows by the number of blocks alone; a preempted sequence comes back with a new lane.
    """

    def __init__(self, lanes: int, most_blocks: int, device: torch.device) -> None:
        self.entries = torch.zeros(lanes + 1, most_blocks, dtype=torch.int32, device=device)
        self._free = list(range(lanes - 1, -1, -1))
        self._lanes: dict[int, tuple[int, int]] = {}
        """By key: the lane, and how many blocks of its sequence it holds."""

    def lane(self, sequence: Sequence) -> int:
        """The lane of a sequence that was followed."""
        return self._lanes[sequence.key][0]

    def follow(self, running: list[Sequence]) -> None:
        """Hold exactly the blocks that running sequences hold now; on the device once its stream gets there."""
        held = {sequence.key for sequence in running if sequence.blocks}
        for key in [key for key in self._lanes if key not in held]:
            self._free.append(self._lanes.pop(key)[0])
        width = self.entries.shape[1]
        places: list[int] = []
        blocks: list[int] = []
        for sequence in running:
            lane, known = self._lanes.get(sequence.key) or (self._free.pop(), 0)
            if known > len(sequence.blocks):
                known = 0  # it was preempted and has come back within one round
            if known < len(sequence.blocks):
                places.extend(range(lane * width + known, lane * width + len(sequence.blocks)))
                blocks.extend(sequence.blocks[known:])
            self._lanes[sequence.key] = (lane, len(sequence.blocks))
        if places:
            at, what = self._sent(torch.tensor(places)), self._sent(torch.tensor(blocks, dtype=torch.int32))
            self.entries.view(-1).index_copy_(0, at, what)

    def _sent(self, numbers: Tensor) -> Tensor:
        """On the device, without waiting: torch keeps a pinned buffer until its copy has been taken."""
        if not self.entries.is_cuda:
            return numbers
        return numbers.pin_memory().to(self.entries.device, non_blocking=True)

    def of(self, lanes: Tensor) -> Tensor:
        """Block tables int32 [R, M] of lanes int64 [R]."""
        return self.entries.index_select(0, lanes)
