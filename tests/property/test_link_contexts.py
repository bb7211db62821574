"""The context pool against a dictionary of concatenated rows, through any history of appends and releases."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outrider.drafter.contexts import ContextPool

LAYERS, HEADS, WIDTH = 2, 1, 2

APPEND = st.tuples(
    st.just("append"),
    st.dictionaries(st.integers(0, 6), st.sampled_from([1, 2, 3, 200, 700]), min_size=1, max_size=4),
)
RELEASE = st.tuples(st.just("release"), st.integers(0, 6))
CLEAR = st.tuples(st.just("clear"), st.integers(0, 6))


def rows(count: int, mark: int) -> tuple[Tensor, Tensor]:
    """Keys and values [L, n, h, e]; some are NaN or infinite, as a broken target's would be."""
    keys = torch.rand(LAYERS, count, HEADS, WIDTH, generator=torch.Generator().manual_seed(mark))
    values = keys + 1
    values[:, mark % count] = [torch.nan, torch.inf, 0.5][mark % 3]
    return keys, values


def same(found: Tensor, expected: Tensor) -> bool:
    return bool(torch.isclose(found, expected, rtol=0, atol=0, equal_nan=True).all())


@settings(deadline=None)
@given(st.lists(st.one_of(APPEND, RELEASE, CLEAR), max_size=25))
def test_slots_hold_what_was_appended_and_zeros_beyond(history: list[tuple[str, object]]) -> None:
    pool = ContextPool(LAYERS, HEADS, WIDTH, device=torch.device("cpu"), dtype=torch.float32)
    slots: dict[int, int] = {}
    held: dict[int, tuple[Tensor, Tensor]] = {}
    for mark, (operation, argument) in enumerate(history):
        if isinstance(argument, dict):
            takers, parts = [], []
            for sequence, count in argument.items():
                slot = slots.setdefault(sequence, slots[sequence] if sequence in slots else pool.acquire())
                takers.append((slot, count))
                parts.append(rows(count, mark + sequence))
                before = held.get(sequence)
                held[sequence] = (
                    parts[-1]
                    if before is None
                    else (torch.cat((before[0], parts[-1][0]), 1), torch.cat((before[1], parts[-1][1]), 1))
                )
            keys, values = (torch.cat(part, 1) for part in zip(*parts, strict=True))
            pool.store(takers, keys, values)
        elif operation == "release" and argument in slots:
            pool.release(slots.pop(argument))
            held.pop(argument, None)
        elif operation == "clear" and argument in slots:
            pool.clear(slots[argument])
            held.pop(argument, None)
    assert pool.held_slots == len(slots)
    asked = sorted(slots, key=slots.__getitem__)
    for chosen in (asked, asked[::2], asked[1:]):
        if chosen:
            assert_view(pool, [slots[sequence] for sequence in chosen], [held.get(sequence) for sequence in chosen])


def assert_view(pool: ContextPool, slots: list[int], expected: list[tuple[Tensor, Tensor] | None]) -> None:
    keys, values, lengths = pool.view(slots)
    wanted = [0 if pair is None else pair[0].shape[1] for pair in expected]
    assert lengths.tolist() == wanted
    assert keys.shape == values.shape == (LAYERS, len(slots), max(wanted), HEADS, WIDTH)
    for row, pair in enumerate(expected):
        if pair is not None:
            assert same(keys[:, row, : wanted[row]], pair[0])
            assert same(values[:, row, : wanted[row]], pair[1])
        assert not keys[:, row, wanted[row] :].any()
        assert not values[:, row, wanted[row] :].any()
