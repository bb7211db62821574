"""The kernels' noise is the reference's, to the bit."""

from __future__ import annotations

import pytest
import torch

from outrider_kernels.counter_noise import exponential, row_keys
from outrider_kernels.counter_noise.triton import exponential_rows
from support.kernels import DEVICE

SEEDS = [0, 1, -1, 2**62, -(2**63), 2**63 - 1]


@pytest.mark.parametrize("lanes", [0, 1, 63, 1000, 40_001])
def test_it_equals_the_reference(lanes: int) -> None:
    seeds = torch.tensor(SEEDS)
    choices, positions = torch.arange(len(seeds)), torch.tensor([0, 1, 11, 1 << 40, 4095, 7])
    found = exponential_rows(seeds.to(DEVICE), choices.to(DEVICE), positions.to(DEVICE), lanes)
    assert torch.equal(found.cpu(), exponential(row_keys(seeds, choices, positions), lanes))


def test_no_rows() -> None:
    none = torch.empty(0, dtype=torch.int64, device=DEVICE)
    assert exponential_rows(none, none, none, 5).shape == (0, 5)
