"""The block pool keeps its balance and refuses what it cannot keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.engine.blocks import BlockPool
from outrider.errors import OutOfBlocks


def test_blocks_for_tokens() -> None:
    pool = BlockPool(4, 16)
    assert [pool.blocks_for(n) for n in (0, 1, 15, 16, 17, 64)] == [0, 1, 1, 1, 2, 4]


def test_asking_for_more_than_is_free_takes_nothing() -> None:
    pool = BlockPool(4, 16)
    held = pool.allocate(3)
    with pytest.raises(OutOfBlocks):
        pool.allocate(2)
    assert (pool.free, pool.used) == (1, 3)
    pool.release(held)
    assert sorted(pool.allocate(4)) == [0, 1, 2, 3]


def test_a_wrong_release_is_refused_whole() -> None:
    pool = BlockPool(4, 16)
    first, second = pool.allocate(2)
    for wrong in ([first, first], [first, 3], [9]):
        with pytest.raises(OutOfBlocks):
            pool.release(wrong)
    assert pool.used == 2
    pool.release([second, first])
    with pytest.raises(OutOfBlocks):
        pool.release([first])
    pool.check_integrity()


@given(st.lists(st.integers(0, 5), max_size=30))
def test_no_block_is_held_twice(sizes: list[int]) -> None:
    pool, held = BlockPool(12, 4), []
    for size in sizes:
        if size <= pool.free:
            held.append(pool.allocate(size))
        elif held:
            pool.release(held.pop(0))
        pool.check_integrity()
        flat = [block for blocks in held for block in blocks]
        assert len(set(flat)) == len(flat) == pool.used


def test_a_lost_balance_is_noticed() -> None:
    pool = BlockPool(3, 4)
    pool.allocate(2)
    pool._free.append(1)
    with pytest.raises(OutOfBlocks):
        pool.check_integrity()
