"""Timing of ops: what a machine without a GPU can tell, and how many sets of inputs keep the L2 cache out of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from outrider_kernels.benching import Case, Measured, copy_bandwidth, input_sets, measured

MIB = 1 << 20


def _never(_: torch.device) -> Callable[[], object]:
    raise AssertionError("nothing is allocated where nothing is timed")


def test_nothing_is_measured_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert measured(Case("big", _never, 1 << 40, 0, "bf16"), cpu) == Measured(None)
    assert copy_bandwidth(cpu) is None


@pytest.mark.parametrize("set_bytes", [1, 4 * MIB, 50 * MIB, 149 * MIB, 299 * MIB, 300 * MIB, 4096 * MIB])
def test_the_cache_has_forgotten_a_set_when_its_turn_comes(set_bytes: int) -> None:
    sets = input_sets(set_bytes, 50 * MIB, 1 << 40)
    assert sets == 16 or (sets - 1) * set_bytes >= 150 * MIB or set_bytes >= 300 * MIB


def test_sets_fit_in_half_of_the_free_memory() -> None:
    assert input_sets(40 * MIB, 50 * MIB, 200 * MIB) == 2
    assert input_sets(40 * MIB, 50 * MIB, 10 * MIB) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_copy_is_replayed_from_a_graph_and_a_synchronising_call_is_not() -> None:
    device = torch.device("cuda")

    def make(on: torch.device) -> Callable[[], object]:
        source = torch.zeros(MIB, device=on)
        return source.clone

    assert measured(Case("clone", make, 8 * MIB, 0, "int32"), device).graph
    asking = measured(Case("item", lambda on: torch.zeros(1, device=on).item, 4, 0, "int32"), device)
    assert not asking.graph
    assert asking.median_s is not None
