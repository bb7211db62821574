"""Whatever is allocated, published, found, released and forgotten: every block is in one place, and found ones true."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider.engine.blocks import BlockPool

TOTAL = 8


class PoolMachine(RuleBasedStateMachine):
    """Holders are lists of blocks with the contents their leading blocks were published under."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(TOTAL, 4)
        self.holders: list[tuple[list[int], list[bytes]]] = []
        self.written: dict[int, bytes] = {}

    @rule(path=st.lists(st.sampled_from("ab"), max_size=4), more=st.integers(0, 3))
    def take(self, path: list[str], more: int) -> None:
        """Hold the known beginning of a path, then new blocks, as far as there are any."""
        contents = ["".join(path[: end + 1]).encode() for end in range(len(path))]
        found = self.pool.find(contents)
        assert [self.written[block] for block in found] == contents[: len(found)], "a block holds something else"
        if more > self.pool.available_beside(found):
            return
        self.pool.hold(found)
        new = self.pool.allocate(more)
        for block in new:
            self.written.pop(block, None)
        self.holders.append(([*found, *new], contents[: len(found)]))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), letter=st.sampled_from("ab"))
    def fill(self, data: st.DataObject, letter: str) -> None:
        """The next block of a holder becomes full."""
        blocks, contents = data.draw(st.sampled_from(self.holders))
        if len(contents) == len(blocks):
            return
        content = (contents[-1] if contents else b"") + letter.encode()
        block = blocks[len(contents)]
        self.written[block] = content
        self.pool.publish(block, content)
        contents.append(content)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.holders) - 1))
        blocks, _ = self.holders.pop(place)
        self.pool.release(blocks)

    @rule()
    def forget(self) -> None:
        self.pool.forget()
        assert self.pool.cached == 0

    @invariant()
    def every_block_is_in_one_place(self) -> None:
        self.pool.check_integrity()
        held = {block for blocks, _ in self.holders for block in blocks}
        assert self.pool.used == len(held)
        assert self.pool.free + self.pool.cached + self.pool.used == TOTAL


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
TestPoolMachine = PoolMachine.TestCase
