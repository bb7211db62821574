"""Cutting blocks in one launch: the depths are those of the reference's stable sort."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outrider_kernels.dispatch import UnsupportedArgument
from outrider_kernels.round_layout import cut, reference
from outrider_kernels.round_layout import triton as kernels
from support.kernels import DEVICE


def arguments(requests: int, slots: int, mapped: bool, allowed: int, *, tied: bool = False) -> list[Tensor | None]:
    torch.manual_seed(requests + slots)
    confidence = 2 * torch.randn(requests + 3, slots)
    drafted = torch.randperm(requests + 3)[:requests]
    drafted[::5] = -1
    confidence[~torch.isin(torch.arange(requests + 3), drafted)] = float("nan")
    if tied:  # certain or impossible: survival is exactly 1 or 0
        confidence = torch.where(confidence > -1, 200.0, -200.0)
    else:
        confidence[drafted.clamp(min=0)[-1]] = float("-inf")
    inputs = torch.rand(2, slots, 5).sort(dim=-1).values if mapped else None
    outputs = torch.rand(2, slots, 5).sort(dim=-1).values if mapped else None
    weights = torch.ones(requests) if tied else torch.rand(requests) + 0.5
    caps = torch.randint(0, slots + 1, (requests,), dtype=torch.int32)
    found = [
        confidence, drafted, torch.randint(0, 2, (requests,)), torch.rand(2, slots) + 0.5, inputs, outputs, weights,
        caps, (torch.rand(requests) < 0.2).int(), torch.tensor([allowed], dtype=torch.int32),
    ]  # fmt: skip
    return [None if each is None else each.to(DEVICE) for each in found]


@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "mapped"])
@pytest.mark.parametrize(("requests", "slots"), [(1, 1), (2, 7), (63, 7), (1000, 8)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 2.0])
def test_cut(requests: int, slots: int, mapped: bool, tied: bool, share: float) -> None:
    given = arguments(requests, slots, mapped and not tied, int(share * requests * slots), tied=tied)
    assert kernels.cut(*given).tolist() == reference.cut(*given).tolist()


@pytest.mark.parametrize(
    ("place", "name"),
    [(0, "confidence"), (1, "drafted"), (3, "temperatures"), (4, "inputs"), (7, "caps")],
)
def test_refusals(place: int, name: str) -> None:
    given = arguments(4, 3, True, 5)
    assert cut(*given).tolist() == reference.cut(*given).tolist()
    given[place] = torch.zeros(5, 5, 5, 5, device=DEVICE)
    with pytest.raises(UnsupportedArgument, match=name):
        cut(*given)
