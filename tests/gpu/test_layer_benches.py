"""Benchmarks of a layer's ops: what they count, and that the forms they list are forms of the kernels."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from outrider_kernels.paged_append import bench as paged_append
from outrider_kernels.ragged_attention import bench as ragged_attention
from outrider_kernels.row_ops import bench as row_ops
from support.kernels import DEVICE

BENCHES = [ragged_attention, paged_append, row_ops]


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.__name__.split(".")[-2])
def test_forms_name_every_argument_of_their_kernel(bench: ModuleType) -> None:
    for variant in bench.code_variants():
        assert set(variant.signature) == set(variant.kernel.arg_names), variant.name
        constants = {name for name, kind in variant.signature.items() if kind == "constexpr"}
        assert constants == set(variant.constants), variant.name
        assert set(variant.aligned) <= set(variant.signature) - constants, variant.name


def test_counts() -> None:
    """8 requests of 1024 positions and a token: 4 KiB of keys and values each, 8 KiB of queries, as much of outputs."""
    case = next(case for case in ragged_attention.cases() if case.name == "8 x 1 tokens, 1024 context")
    assert case.bytes == 8 * (1025 * 4096 + 2 * 8192 + 65 * 4)
    assert case.operations == 8 * 32 * 1025 * (128 + 128) * 2
    case = next(case for case in row_ops.cases() if case.name == "gate, 8 rows")
    assert case.bytes == 8 * (24576 + 12288) * 2


def test_a_case_runs() -> None:
    case = next(case for case in row_ops.cases() if case.name == "add and norm, 8 rows")
    total, normed = case.make(DEVICE)()  # type: ignore[misc]
    assert (total.shape, normed.dtype) == ((8, 4096), torch.bfloat16)
