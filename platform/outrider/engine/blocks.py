"""The pool of KV blocks: numbers only, no tensors."""

from __future__ import annotations

from outrider.errors import OutOfBlocks

__all__ = ["BlockPool"]


class BlockPool:
    """Hands out block numbers 0…total-1. Invariant: free + allocated = all, and no block is in both."""

    def __init__(self, total: int, block_size: int) -> None:
        self.total = total
        self.block_size = block_size
        self._free = list(range(total - 1, -1, -1))
        self._allocated: set[int] = set()

    @property
    def free(self) -> int:
        """How many blocks can still be allocated."""
        return len(self._free)

    @property
    def used(self) -> int:
        """How many blocks are allocated."""
        return len(self._allocated)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` positions."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks; raises OutOfBlocks, taking none, when fewer are free."""
        if count > len(self._free):
            raise OutOfBlocks(f"{count} KV blocks were asked for, {len(self._free)} of {self.total} are free")
        taken = [self._free.pop() for _ in range(count)]
        self._allocated.update(taken)
        return taken

    def release(self, blocks: list[int]) -> None:
        """Give blocks back; raises OutOfBlocks, giving none back, when one of them is not allocated."""
        if not self._allocated.issuperset(blocks) or len(set(blocks)) != len(blocks):
            raise OutOfBlocks("a KV block was released that is not allocated")
        self._allocated.difference_update(blocks)
        self._free.extend(reversed(blocks))

    def check_integrity(self) -> None:
        """Raise OutOfBlocks unless every block is free or allocated, exactly once."""
        free = set(self._free)
        if len(free) != len(self._free) or free & self._allocated or len(free) + self.used != self.total:
            raise OutOfBlocks(
                f"the KV block pool lost its balance: {len(self._free)} free, {self.used} allocated, {self.total} total"
            )
