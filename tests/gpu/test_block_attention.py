"""Block attention: the reference is the draft backbone's eager attention, and the kernel is the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from outrider.drafter.layers import fold_groups, unfold_groups
from outrider_kernels.block_attention import block_attention
from outrider_kernels.block_attention import reference as plain
from outrider_kernels.dispatch import UnsupportedArgument
from support.drafting import blocks
from support.kernels import DEVICE, DTYPES, bound


def kernels() -> Any:
    """Imported late: where there is no GPU, the interpreter must have been asked for before."""
    from outrider_kernels.block_attention import triton

    return triton


def test_the_reference_agrees_with_the_eager_attention() -> None:
    """Torch's own attention over context and block side by side, as `DraftBackbone.backbone` calls it."""
    step = blocks([63, 1, 0, 128], 5)
    for row, slot in enumerate(step.slots.tolist()):
        length = int(step.lengths[row])
        keys = torch.cat((step.context_keys[slot, :length], step.key[row])).transpose(0, 1)
        values = torch.cat((step.context_values[slot, :length], step.value[row])).transpose(0, 1)
        queries = fold_groups(step.query[row : row + 1], 2)
        mixed = F.scaled_dot_product_attention(queries, keys[None], values[None], scale=0.25)
        found = block_attention(*step.all, scaling=0.25)[row : row + 1].flatten(2)
        torch.testing.assert_close(found, unfold_groups(mixed, 5), rtol=0, atol=2e-6)


def test_a_window_hides_the_far_context() -> None:
    """Row k at position 20 + k sees positions above 20 + k − 4; the rest may be anything."""
    step = blocks([20], 3)
    windowed = block_attention(*step.all, scaling=0.25, window=4)
    for slot in range(3):
        first = max(20 + slot - 4 + 1, 0)
        cropped = blocks([20], 3)
        near = cropped.context_keys[:, first:20], cropped.context_values[:, first:20]
        alone = block_attention(
            step.query, step.key, step.value, *near, step.slots, (step.lengths - first).clamp(max=20 - first),
            scaling=0.25,
        )  # fmt: skip
        torch.testing.assert_close(windowed[:, slot], alone[:, slot], rtol=0, atol=2e-6)
    assert not torch.allclose(windowed, block_attention(*step.all, scaling=0.25), atol=1e-3)


def test_nothing_and_padding() -> None:
    assert block_attention(*blocks([], 4).all, scaling=1.0).shape == (0, 4, 4, 16)
    found = block_attention(*blocks([None, 5, None], 4).all, scaling=1.0)
    assert not found[[0, 2]].any()
    assert found[1].isfinite().all()


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("query", {"query": torch.zeros(2, 3, 4, 300)}),
        ("key", {"key": torch.zeros(2, 3, 3, 16)}),
        ("value", {"value": torch.zeros(2, 3, 2, 16, dtype=torch.float64)}),
        ("context_keys", {"context_keys": torch.zeros(0, 8, 2, 16), "context_values": torch.zeros(0, 8, 2, 16)}),
        ("context_values", {"context_values": torch.zeros(3, 64, 2, 16)}),
        ("slots", {"slots": torch.zeros(2, dtype=torch.int32)}),
        ("lengths", {"lengths": torch.zeros(2, dtype=torch.int64)}),
    ],
)
def test_what_it_refuses(argument: str, change: dict[str, torch.Tensor]) -> None:
    step = blocks([4, 7], 3)
    arguments = vars(step) | {name: tensor.to(DEVICE) for name, tensor in change.items()}
    with pytest.raises(UnsupportedArgument, match=f"argument {argument} "):
        block_attention(**arguments, scaling=1.0)


def tolerance(dtype: torch.dtype, keys: int) -> float:
    """Logits of 16 products and a sum over `keys` values of weight one in all, values below 5; what the weights are
    rounded to for the second product counts once more.
    """
    return 5 * (bound(torch.float32, 16, 4.0) + bound(dtype, keys, 1.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize(
    ("lengths", "gamma", "sizes"),
    [
        ([1, 63, 0, None, 64], 7, {}),
        ([1000, 65, 3], 1, {"capacity": 1024}),
        ([300, None], 16, {"capacity": 700, "heads": 6, "kv_heads": 2, "head_dim": 24}),
    ],
    ids=str,
)
def test_the_kernel_is_the_reference(
    lengths: list[int | None], gamma: int, sizes: dict[str, int], window: int | None, dtype: torch.dtype
) -> None:
    step = blocks(lengths, gamma, dtype=dtype, **sizes)
    expected = plain.block_attention(*step.all, scaling=0.25, window=window)
    found = kernels().block_attention(*step.all, scaling=0.25, window=window)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(dtype, 1000))


def test_shares_change_nothing_and_no_share_is_left_out() -> None:
    """One request of one key head is split as far as its slot's size allows."""
    step = blocks([1000], 3, heads=2, kv_heads=1, capacity=2048)
    assert kernels().shares(1, 1, 2048) == 8
    found = kernels().block_attention(*step.all, scaling=0.25)
    torch.testing.assert_close(found, plain.block_attention(*step.all, scaling=0.25), rtol=0, atol=2e-6)
    step.lengths[0] = 900
    short = kernels().block_attention(*step.all, scaling=0.25)
    assert not torch.allclose(short, found, atol=1e-3), "a hundred keys less must show"


def test_the_kernel_of_nothing() -> None:
    assert kernels().block_attention(*blocks([], 4).all, scaling=1.0).shape == (0, 4, 4, 16)


def test_the_kernel_reads_slices_of_joined_projections() -> None:
    step = blocks([20, 5], 4)
    joined = torch.cat((step.query, step.key, step.value), dim=2)
    query, key, value = joined.split((4, 2, 2), dim=2)
    found = kernels().block_attention(query, key, value, *step.all[3:], scaling=0.25)
    torch.testing.assert_close(found, plain.block_attention(*step.all, scaling=0.25), rtol=0, atol=2e-6)
