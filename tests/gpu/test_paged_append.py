"""Appends: every slot gets its row, no other slot is touched, and queries and keys are those of the engine's layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import outrider_kernels.paged_append as op
from outrider_kernels.dispatch import UnsupportedArgument
from outrider_kernels.paged_append import reference
from outrider_kernels.paged_append import triton as kernels
from support.kernels import DEVICE, DTYPES, bound, poisoned

TWINS = [reference, kernels]
EPS = 1e-6


@pytest.mark.parametrize("twin", TWINS, ids=["reference", "triton"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (63,), (1000,), (2, 3, 5), (2500,)], ids=str)
def test_rows_go_to_their_slots(twin: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    rows = torch.randn(5, *shape).to(DEVICE, dtype)
    plane = poisoned(9, *shape, dtype=dtype)
    twin.append_rows(rows, plane, torch.tensor([3, -1, 0, -1, 8], device=DEVICE))
    assert torch.equal(plane[[3, 0, 8]], rows[[0, 2, 4]])
    assert plane[[1, 2, 4, 5, 6, 7]].isnan().all()


@pytest.mark.parametrize("twin", TWINS, ids=["reference", "triton"])
@pytest.mark.parametrize("slots", [[], [-1, -1, -5]], ids=str)
def test_nothing_to_append(twin: Any, slots: list[int]) -> None:
    plane = poisoned(4, 6)
    twin.append_rows(torch.ones(len(slots), 6, device=DEVICE), plane, torch.tensor(slots, dtype=torch.int64).to(DEVICE))
    assert plane.isnan().all()


@pytest.mark.parametrize("twin", TWINS, ids=["reference", "triton"])
def test_rows_and_planes_may_be_parts_of_wider_ones(twin: Any) -> None:
    rows, plane = torch.randn(3, 20, device=DEVICE), poisoned(5, 2, 8)
    twin.append_rows(rows[:, 4:12], plane[:, 1], torch.tensor([4, 0, 2], device=DEVICE))
    assert torch.equal(plane[[4, 0, 2], 1], rows[:, 4:12])
    assert plane[:, 0].isnan().all()


@pytest.mark.parametrize("twin", TWINS, ids=["reference", "triton"])
def test_a_narrower_plane_rounds(twin: Any) -> None:
    rows, plane = torch.randn(2, 33, device=DEVICE), poisoned(2, 33, dtype=torch.float16)
    twin.append_rows(rows, plane, torch.tensor([1, 0], device=DEVICE))
    assert torch.equal(plane, rows[[1, 0]].half())


def arguments(
    heads: int, kv_heads: int, half: int, tokens: int, dtype: torch.dtype, *, norm: bool = True
) -> tuple[dict[str, Any], Tensor]:
    """All but kv, with every third token skipped; and the slots that are written."""
    torch.manual_seed(0)
    slots = torch.randperm(tokens + 3)[:tokens]
    slots[::3] = -1
    weights = [torch.rand(2 * half).to(DEVICE, dtype) + 0.5 if norm else None for _ in range(2)]
    given = {
        "qkv": torch.randn(tokens, (heads + 2 * kv_heads) * 2 * half).to(DEVICE, dtype),
        "positions": torch.randint(0, 40_000, (tokens,)).to(DEVICE),
        "slots": slots.to(DEVICE),
        "heads": heads,
        "kv_heads": kv_heads,
        "q_norm": weights[0],
        "k_norm": weights[1],
        "eps": EPS,
        "frequencies": 10_000.0 ** -(torch.arange(half, device=DEVICE) / half),
    }
    return given, slots[slots >= 0].to(DEVICE)


def tolerance(dtype: torch.dtype, half: int) -> float:
    """A normed element stays below √D; fp32 angles up to 40,000 are the same product on both sides."""
    return bound(dtype, 2 * half, 1.5 * (2.0 * half) ** 0.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "no norm"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "half", "tokens"), [(4, 2, 8, 1), (9, 3, 16, 7), (1, 1, 1, 63), (16, 2, 40, 3)]
)
def test_the_kernel_is_the_reference(
    heads: int, kv_heads: int, half: int, tokens: int, norm: bool, dtype: torch.dtype
) -> None:
    given, written = arguments(heads, kv_heads, half, tokens, dtype, norm=norm)
    caches = [poisoned(tokens + 3, 2, kv_heads, 2 * half, dtype=dtype) for _ in TWINS]
    queries = [twin.rotate_append(kv=kv, rotation_scale=1.25, **given) for twin, kv in zip(TWINS, caches, strict=True)]
    atol = tolerance(dtype, half) if norm else bound(dtype, 2, 8.0)
    torch.testing.assert_close(queries[1], queries[0], rtol=0, atol=atol)
    torch.testing.assert_close(caches[1][written], caches[0][written], rtol=0, atol=atol)
    assert torch.equal(caches[1][written, 1], caches[0][written, 1])
    for kv in caches:
        assert int(kv.isnan().flatten(1).all(1).sum()) == tokens + 3 - len(written)


@pytest.mark.parametrize("twin", TWINS, ids=["reference", "triton"])
def test_it_is_the_engine_layer_s_arithmetic(twin: Any) -> None:
    heads, kv_heads, half, tokens = 4, 2, 8, 6
    given, written = arguments(heads, kv_heads, half, tokens, torch.float32)
    kv = poisoned(tokens + 3, 2, kv_heads, 2 * half)
    query = twin.rotate_append(kv=kv, **given)

    angles = given["positions"].float()[:, None] * given["frequencies"]
    cos, sin = angles.cos().repeat(1, 2)[:, None], torch.cat((-angles.sin(), angles.sin()), dim=-1)[:, None]
    every = given["qkv"].view(tokens, -1, 2 * half)
    weights = torch.cat((given["q_norm"].expand(heads, -1), given["k_norm"].expand(kv_heads, -1)))
    both = torch.rms_norm(every[:, : heads + kv_heads], (2 * half,), None, EPS) * weights
    turned = torch.addcmul(both * cos, torch.roll(both, half, dims=-1), sin)
    new = torch.cat((turned[:, heads:], every[:, heads + kv_heads :]), dim=1).view(tokens, 2, kv_heads, -1)
    atol = tolerance(torch.float32, half)
    torch.testing.assert_close(query, turned[:, :heads], rtol=0, atol=atol)
    torch.testing.assert_close(kv[written], new[given["slots"] >= 0], rtol=0, atol=atol)


@pytest.mark.parametrize("twin", TWINS, ids=["reference", "triton"])
def test_far_positions_turn_as_exactly_as_near_ones(twin: Any) -> None:
    positions = torch.tensor([0, 1, 2, 3, 5, 1000, 131_071, 1_000_003], device=DEVICE)
    frequencies = torch.tensor([1.0, 0.9, 0.05, 1e-4], device=DEVICE)
    qkv = torch.zeros(len(positions), 3, 8, device=DEVICE)
    qkv[:, :, :4] = 1.0
    given: dict[str, Any] = {"heads": 1, "kv_heads": 1, "q_norm": None, "k_norm": None, "eps": EPS}
    slots = torch.full_like(positions, -1)
    query = twin.rotate_append(qkv.flatten(1), positions, slots, poisoned(1, 2, 1, 8), frequencies=frequencies, **given)
    angles = (positions.float()[:, None] * frequencies).double()
    wanted = torch.cat((angles.cos(), angles.sin()), dim=-1)
    torch.testing.assert_close(query[:, 0].double(), wanted, rtol=0, atol=2.0**-22)


def test_an_unturned_key_would_be_noticed() -> None:
    given, written = arguments(4, 2, 8, 6, torch.float32)
    turned, unturned = poisoned(9, 2, 2, 16), poisoned(9, 2, 2, 16)
    kernels.rotate_append(kv=turned, **given)
    kernels.rotate_append(kv=unturned, **{**given, "positions": given["positions"] * 0})
    assert (turned[written] - unturned[written]).abs().max() > 100 * tolerance(torch.float32, 8)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("plane", lambda: op.append_rows(torch.zeros(2, 3), torch.zeros(4, 5), torch.zeros(2).long())),
        ("rows", lambda: op.append_rows(torch.zeros(2, 3).long(), torch.zeros(4, 3), torch.zeros(2).long())),
        ("rows", lambda: op.append_rows(torch.zeros(2, 4, 6)[:, ::2, :3], torch.zeros(4, 2, 3), torch.zeros(2).long())),
        ("slots", lambda: op.append_rows(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2).int())),
        ("slots", lambda: op.append_rows(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3).long())),
        ("frequencies", lambda: rotated(frequencies=torch.zeros(200))),
        ("qkv", lambda: rotated(heads=3)),
        ("positions", lambda: rotated(positions=torch.zeros(5).long())),
        ("kv", lambda: rotated(kv=torch.zeros(9, 2, 2, 16, dtype=torch.float16))),
        ("q_norm", lambda: rotated(q_norm=torch.zeros(8))),
        ("k_norm", lambda: rotated(k_norm=None)),
    ],
)
def test_what_they_do_not_take(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(UnsupportedArgument) as refusal:
        call()
    assert refusal.value.argument == argument


def rotated(**changes: Any) -> Tensor:
    given, _ = arguments(4, 2, 8, 6, torch.float32)
    on_cpu = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in given.items()}
    return op.rotate_append(**{"kv": torch.zeros(9, 2, 2, 16), **on_cpu, **changes})
