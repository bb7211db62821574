"""Where an op runs, and what it says of arguments it does not take."""

from __future__ import annotations

import logging

import pytest
import torch

from outrider_kernels.dispatch import UnsupportedArgument, check_tensor, use_triton

FLOATS = (torch.float32, torch.bfloat16)


def test_the_cpu_takes_the_reference_silently(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not use_triton("some_op", torch.device("cpu"))
    assert not caplog.records


def test_an_unsupported_device_takes_the_reference_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not use_triton("an_op_nobody_has", torch.device("xpu"))
    assert [record.getMessage() for record in caplog.records] == [
        "an_op_nobody_has on xpu goes on with the reference: there are no kernels for xpu devices"
    ]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 3), "has shape [2, 3], not [?, 4]"),
        (torch.zeros(4), "has shape [4], not [?, 4]"),
        (torch.zeros(2, 4, dtype=torch.float64), "is float64, not float32 or bfloat16"),
        (torch.zeros(2, 8)[:, ::2], "has a stride of 2 in its last dimension, not 1"),
        (torch.zeros(2, 4, device="meta"), "is on meta, the others are on cpu"),
    ],
)
def test_a_refusal_names_the_argument(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(UnsupportedArgument) as caught:
        check_tensor("op", "query", tensor, (None, 4), FLOATS, device=torch.device("cpu"))
    assert str(caught.value) == f"op: argument query {message}"
    assert (caught.value.op, caught.value.argument) == ("op", "query")


def test_contiguity() -> None:
    with pytest.raises(UnsupportedArgument, match="must be contiguous"):
        check_tensor("op", "w", torch.zeros(4, 8)[:, :4], (4, 4), FLOATS, contiguous=True)
    check_tensor("op", "w", torch.zeros(4, 8)[:, :4], (4, 4), FLOATS)
