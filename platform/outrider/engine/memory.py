"""Which sequence holds which KV blocks, and whose computed prefix it can take over."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

from outrider.engine.blocks import BlockPool
from outrider.engine.cache import PagedCache
from outrider.engine.sequence import NO_SLOTS, Sequence
from outrider.errors import OutOfBlocks

__all__ = ["Memory"]


class Memory:
    """Owned by one engine, on its thread.

    A full block whose positions are all computed is published under a hash of everything that led to it: the
    salt and every token from the first. Keys, values and drafter rows lie beside each other by slot, so who
    finds a block has all three. The hash is cryptographic: a tenant who could make two prompts collide would read
    another's answer. The block a sequence still writes to is never shared.
    """

    def __init__(self, cache: PagedCache, blocks: int, *, reuse: bool = True) -> None:
        self.cache = cache
        self.pool = BlockPool(blocks, cache.block_size)
        self._reuse = reuse

    def admit(self, sequence: Sequence, running: list[Sequence]) -> bool:
        """Give a waiting sequence memory for its tokens and the next one; False, giving none, when that must wait.

        It waits while a running prefill computes the block it would need next, and unless a block for each
        running sequence stays available: who is admitted only to be preempted computed for nothing.
        """
        found = self._found(sequence, running)
        if found is None or not self._fits(sequence, found, running, ()):
            return False
        size = self.pool.block_size
        self.pool.hold(found)
        sequence.blocks = found + self.pool.allocate(self._needed(sequence, found))
        sequence.slot_room = self.cache.block_slots.new_empty(self.pool.blocks_for(sequence.most_tokens + 1) * size)
        self._fill_slots(sequence, 0)
        sequence.published = len(found)
        sequence.num_computed = len(found) * size
        return True

    def would_admit(self, sequence: Sequence, running: list[Sequence], giving: list[Sequence]) -> bool:
        """Whether `admit` would, were `giving` set aside of those who run."""
        staying = [s for s in running if s not in giving]
        found = self._found(sequence, staying)
        return found is not None and self._fits(sequence, found, staying, giving)

    def _found(self, sequence: Sequence, running: list[Sequence]) -> list[int] | None:
        """Blocks it can take over; None while a running prefill computes the next."""
        if not self._reuse or not sequence.reuses_prefix:
            return []
        tokens = len(sequence.tokens) - 1  # the last token is computed in any case: its logits are wanted
        self._extend_hashes(sequence, tokens)
        wanted = sequence.hashes[: tokens // self.pool.block_size]
        found = self.pool.find(wanted)
        return None if len(found) < len(wanted) and wanted[len(found)] in _being_computed(running) else found

    def _needed(self, sequence: Sequence, found: list[int]) -> int:
        return self.pool.blocks_for(len(sequence.tokens) + 1) - len(found)

    def _fits(self, sequence: Sequence, found: list[int], running: list[Sequence], giving: Iterable[Sequence]) -> bool:
        freed = self.pool.freed_by(block for each in giving for block in each.blocks).difference(found)
        available = self.pool.available_beside(found) + len(freed)
        return self._needed(sequence, found) + len(running) <= available

    def grow(self, sequence: Sequence, positions: int) -> bool:
        """Let a running sequence hold `positions` positions; False, giving none, when too few blocks are available."""
        missing = self.pool.blocks_for(positions) - len(sequence.blocks)
        if missing <= 0:
            return True
        if missing > self.pool.available:
            return False
        held = len(sequence.blocks)
        sequence.blocks += self.pool.allocate(missing)
        self._fill_slots(sequence, held)
        return True

    def publish(self, sequence: Sequence) -> None:
        """Let others find the blocks that this sequence has filled since last time."""
        full = sequence.num_computed // self.pool.block_size
        if not self._reuse or sequence.published >= full:
            return
        self._extend_hashes(sequence, sequence.num_computed)
        for number in range(sequence.published, full):
            self.pool.publish(sequence.blocks[number], sequence.hashes[number])
        sequence.published = full

    def release(self, sequence: Sequence) -> None:
        """Take everything back; what was published can be found until it is evicted."""
        self.pool.release(sequence.blocks)
        sequence.blocks, sequence.slots, sequence.slot_room, sequence.published = [], NO_SLOTS, NO_SLOTS, 0

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise OutOfBlocks unless the pool balances and its holders are the running sequences."""
        self.pool.check_integrity()
        held = {block for sequence in running for block in sequence.blocks}
        if len(held) != self.pool.used:
            raise OutOfBlocks(f"{self.pool.used} KV blocks are marked used, running sequences hold {len(held)}")

    def _fill_slots(self, sequence: Sequence, held: int) -> None:
        """The slots of the blocks behind the first `held`, in place: joining tensors took most of what is booked."""
        size, new = self.pool.block_size, sequence.blocks[held:]
        slots = self.cache.block_slots[new[0]] if len(new) == 1 else self.cache.slots_of(new)
        sequence.slot_room[held * size : len(sequence.blocks) * size] = slots
        sequence.slots = sequence.slot_room[: len(sequence.blocks) * size]

    def _extend_hashes(self, sequence: Sequence, positions: int) -> None:
        """Hashes of every full block within the first `positions` tokens, which never change once there."""
        size, hashes = self.pool.block_size, sequence.hashes
        while (len(hashes) + 1) * size <= positions:
            before = hashes[-1] if hashes else blake2b(sequence.request.cache_salt.encode()).digest()
            block = sequence.tokens[len(hashes) * size : (len(hashes) + 1) * size]
            hashes.append(blake2b(before + array("q", block).tobytes(), digest_size=32).digest())


def _being_computed(running: list[Sequence]) -> set[bytes]:
    """Hashes of the blocks that running prefills have yet to fill."""
    return {each for s in running if not s.decoding and s.reuses_prefix for each in s.hashes[s.published :]}
