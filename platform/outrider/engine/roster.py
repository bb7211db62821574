"""Who runs, who waits, and who gives way: the sequences of one engine and the memory they hold."""

from __future__ import annotations

import time
from collections import deque

from outrider.engine.cache import PagedCache
from outrider.engine.memory import Memory
from outrider.engine.sequence import Sequence
from outrider.engine.settings import EngineSettings

__all__ = ["Roster"]


class Roster:
    """Owned by one engine, on its thread. Every sequence is running, with memory, or queued, without."""

    def __init__(self, settings: EngineSettings, cache: PagedCache) -> None:
        self._settings = settings
        self._cache = cache
        self.running: list[Sequence] = []
        self.queue: deque[Sequence] = deque()
        self.reset_memory()

    def reset_memory(self) -> None:
        """Count every block as free; only while nothing runs."""
        self.memory = Memory(self._cache, self._settings.kv_blocks, reuse=self._settings.prefix_cache)

    @property
    def everyone(self) -> list[Sequence]:
        """Running, then queued."""
        return [*self.running, *self.queue]

    @property
    def waiting_tokens(self) -> int:
        """Tokens to be computed before everyone decodes."""
        prefilling = sum(len(s.tokens) - s.num_computed for s in self.running if not s.decoding)
        return prefilling + sum(len(s.tokens) for s in self.queue)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended and take what it holds."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.memory.release(sequence)
        else:
            self.queue.remove(sequence)

    @property
    def admission_wait_s(self) -> float:
        """How long the queue may still wait for company before a step is due; 0 when one is due now.

        Whoever runs is company. In an empty engine the queue waits until one request's batch class tires of it, or
        nobody more could start with it: all places are taken, or all memory is.
        """
        if self.running or not self.queue or self._queue_fills_up():
            return 0.0
        now_s = time.monotonic()
        return max(0.0, min(s.arrived_s + s.request.batch_class.admission_wait_s - now_s for s in self.queue))

    def _queue_fills_up(self) -> bool:
        blocks = sum(self.memory.pool.blocks_for(len(s.tokens) + 1) for s in self.queue)
        return len(self.queue) >= self._settings.max_running_requests or blocks >= self.memory.pool.total

    def admit(self) -> None:
        """Start queued requests as long as there are places, and memory for what they begin with.

        First come, first served among equal weights. Nobody overtakes who is next and lacks memory, but those who run
        may give theirs up for it.
        """
        if self.admission_wait_s > 0:
            return
        now_s = time.monotonic()
        while self.queue and len(self.running) < self._settings.max_running_requests:
            sequence = max(self._fitting(), key=lambda s: s.urgency(now_s), default=None)
            if sequence is None:
                return
            if not self.memory.admit(sequence, self.running) and not self._give_way(sequence):
                return
            self.queue.remove(sequence)
            if sequence.admitted_s is None:
                sequence.admitted_s = time.monotonic()
                sequence.cached_tokens = sequence.num_computed
            self.running.append(sequence)

    def _fitting(self) -> list[Sequence]:
        """Who of the queue may run without a step that is too large for someone who weighs as much or more.

        Those who weigh less do not count: they sit rounds out.
        """
        full = {weight: self._full(weight) for weight in {s.request.batch_class.weight for s in self.queue}}
        return [s for s in self.queue if not full[s.request.batch_class.weight]]

    def _full(self, weight: float) -> bool:
        classes = [s.request.batch_class for s in self.running if s.request.batch_class.weight >= weight]
        return bool(classes) and len(classes) >= min(each.co_batch_tokens for each in classes)

    def make_room(self, block_size: int, ahead: int = 0) -> None:
        """Memory for every decoding sequence's anchor, then for drafts of up to `block_size` if blocks are left over,
        or for all that rounds in flight may add: `ahead` positions.

        When an anchor has no room, the sequence that sorts last gives way, be it the one that asks: the first in order
        always advances, and no two can take memory from each other in turn.
        """
        size = self._settings.block_size
        short = [
            s for s in self.running if s.decoding and len(s.blocks) * size < len(s.tokens) + max(block_size, ahead)
        ]
        short.sort(key=lambda s: s.precedence)
        for sequence in short:
            while sequence.blocks and not self.memory.grow(sequence, len(sequence.tokens)):
                self._preempt(max(self.running, key=lambda s: s.precedence))
        for sequence in short if block_size or ahead else ():
            if sequence.blocks and self.memory.pool.available > len(self.running):
                more = min(ahead, max(sequence.remaining, 0)) if ahead else sequence.depth_limit(block_size)
                self.memory.grow(sequence, len(sequence.tokens) + more)

    def _give_way(self, sequence: Sequence) -> bool:
        """Admit a newcomer by setting aside those its class comes before, as few as will do, the last in order first.

        Nobody is set aside for a newcomer who was set aside before: what newcomers may cost is computed once more.
        """
        order = sequence.request.batch_class.preemption_order
        behind = [s for s in self.running if s.request.batch_class.preemption_order > order and not s.preemptions]
        if not behind or not self.memory.would_admit(sequence, self.running, behind):
            return False
        behind.sort(key=lambda s: s.precedence, reverse=True)
        counts = range(1, len(behind) + 1)
        fewest = next(n for n in counts if self.memory.would_admit(sequence, self.running, behind[:n]))
        for each in behind[:fewest]:
            self._preempt(each)
        return self.memory.admit(sequence, self.running)

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's memory; it waits in front of the queue and goes on where it was, its tokens kept."""
        self.running.remove(sequence)
        self.memory.release(sequence)
        sequence.num_computed = 0
        sequence.preemptions += 1
        self.queue.appendleft(sequence)
