"""The pool of KV blocks: numbers and what full ones hold, no tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from outrider.errors import OutOfBlocks

__all__ = ["BlockPool"]


class BlockPool:
    """Hands out block numbers 0…total-1 and finds full blocks again by the hash of all tokens up to their end.

    A block is free, cached (nobody holds it, its content is known) or used (held once or, when found again, more
    often). Invariant: free + cached + used = all. Cached blocks count as available and are evicted least recently used
    first; of one release the last blocks go first, because a prefix is worth nothing without its beginning.
    """

    def __init__(self, total: int, block_size: int) -> None:
        self.total = total
        self.block_size = block_size
        self._free = list(range(total - 1, -1, -1))
        self._cached: dict[int, None] = {}
        self._holders: dict[int, int] = {}
        self._by_hash: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that nobody holds and whose content can still be found."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that can be allocated."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return len(self._holders)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` positions."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, cached ones when no free one is left; raises OutOfBlocks, taking none, when too few."""
        if count > self.available:
            raise OutOfBlocks(f"{count} KV blocks were asked for, {self.available} of {self.total} are available")
        taken = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        self._holders.update(dict.fromkeys(taken, 1))
        return taken

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest leading run of hashes that are known; not yet held by the caller."""
        found = []
        for each in hashes:
            block = self._by_hash.get(each)
            if block is None:
                break
            found.append(block)
        return found

    def available_beside(self, found: Sequence[int]) -> int:
        """Blocks that could still be allocated by somebody who holds the found ones."""
        return self.available - sum(block in self._cached for block in found)

    def freed_by(self, blocks: Iterable[int]) -> set[int]:
        """Blocks that nobody would hold any more, were each of these given back as often as it is named."""
        return {block for block, holds in Counter(blocks).items() if self._holders[block] == holds}

    def hold(self, found: Sequence[int]) -> None:
        """Hold blocks that `find` returned, beside whoever else does."""
        for block in found:
            self._cached.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1

    def publish(self, block: int, content: bytes) -> None:
        """Let a full block be found by its hash; of two blocks with the same content the first is."""
        if self._holders.get(block, 0) != 1 or block in self._hash_of:
            raise OutOfBlocks("a KV block was published that is not its writer's")
        if content not in self._by_hash:
            self._by_hash[content] = block
            self._hash_of[block] = content

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back; raises OutOfBlocks, giving none back, when one of them is not held."""
        if not self._holders.keys() >= set(blocks) or len(set(blocks)) != len(blocks):
            raise OutOfBlocks("a KV block was released that is not held")
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            if block in self._hash_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def forget(self) -> None:
        """No block is found any more; cached ones become free."""
        self._free.extend(self._cached)
        self._cached.clear()
        self._by_hash.clear()
        self._hash_of.clear()

    def check_integrity(self) -> None:
        """Raise OutOfBlocks unless every block is free, cached or used, exactly once, and hashes name what they should.

        Cached blocks are those with a hash that nobody holds.
        """
        places = [*self._free, *self._cached, *self._holders]
        hashed = {block: content for content, block in self._by_hash.items()}
        if (
            sorted(places) != list(range(self.total))
            or hashed != self._hash_of
            or not self._cached.keys() <= hashed.keys()
            or not hashed.keys() <= self._cached.keys() | self._holders.keys()
            or min(self._holders.values(), default=1) < 1
        ):
            raise OutOfBlocks(
                f"the KV block pool lost its balance: {self.free} free, {self.cached} cached, {self.used} used, "
                f"{len(hashed)} known, {self.total} total"
            )

    def _evict(self) -> int:
        block = next(iter(self._cached))
        del self._cached[block]
        del self._by_hash[self._hash_of.pop(block)]
        return block
