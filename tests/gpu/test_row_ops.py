"""Row operations: the kernels are the references, which are torch's own functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from outrider_kernels.dispatch import UnsupportedArgument
from outrider_kernels.row_ops import add_norm, reference, silu_mul
from outrider_kernels.row_ops import triton as kernels
from support.kernels import DEVICE, DTYPES, bound

WIDTHS = [1, 63, 1000, 2048]
CUT_OFF = 2.0**-7 if DEVICE.type == "cpu" else 0
"""Triton's interpreter cuts fp32 off where a GPU rounds it to bf16."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("added", [True, False], ids=["added", "alone"])
def test_add_norm(width: int, added: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    wide = torch.randn(5, width + 8).to(DEVICE, dtype)
    hidden, more = wide[:, 8:], torch.randn(5, width).to(DEVICE, dtype) if added else None
    weight = (torch.rand(width) + 0.5).to(DEVICE, dtype)
    total, normed = kernels.add_norm(hidden, more, weight, 1e-6)
    wanted_total, _ = reference.add_norm(hidden, more, weight, 1e-6)
    torch.testing.assert_close(total, wanted_total, rtol=CUT_OFF if dtype == torch.bfloat16 else 0, atol=0)
    assert added or total is hidden
    _, wanted = reference.add_norm(total, None, weight, 1e-6)
    largest = float(wanted.abs().max())
    torch.testing.assert_close(normed, wanted, rtol=0, atol=bound(dtype, width, largest))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_silu_mul(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate_up = (3 * torch.randn(4, 2 * width)).to(DEVICE, dtype)
    gate_up[0, 0], gate_up[1, 0] = -200.0, 200.0
    found, wanted = kernels.silu_mul(gate_up), reference.silu_mul(gate_up)
    # an exponential is off by as many roundings as its argument, here below 15, is large
    torch.testing.assert_close(found, wanted, rtol=bound(dtype, 16, 1.0), atol=0)


def test_the_references_are_torch_s_functions() -> None:
    hidden, more, weight = torch.randn(3, 40), torch.randn(3, 40), torch.randn(40)
    total, normed = add_norm(hidden, more, weight, 1e-5)
    assert torch.equal(total, hidden + more)
    assert torch.equal(normed, torch.rms_norm(hidden + more, (40,), weight, 1e-5))
    gate_up = torch.randn(3, 40)
    assert torch.equal(silu_mul(gate_up), torch.nn.functional.silu(gate_up[:, :20]) * gate_up[:, 20:])


def test_no_rows() -> None:
    none = torch.empty(0, 6, device=DEVICE)
    assert kernels.add_norm(none, none, torch.ones(6, device=DEVICE), 1e-6)[1].shape == (0, 6)
    assert kernels.silu_mul(none).shape == (0, 3)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("hidden", lambda: add_norm(torch.zeros(2, 3).long(), None, torch.zeros(3), 1e-6)),
        ("hidden", lambda: add_norm(torch.zeros(2, 0), None, torch.zeros(0), 1e-6)),
        ("hidden", lambda: add_norm(torch.zeros(3, 2).T, None, torch.zeros(3), 1e-6)),
        ("added", lambda: add_norm(torch.zeros(2, 3), torch.zeros(3, 3), torch.zeros(3), 1e-6)),
        ("weight", lambda: add_norm(torch.zeros(2, 3), None, torch.zeros(3).half(), 1e-6)),
        ("gate_up", lambda: silu_mul(torch.zeros(2, 3))),
        ("gate_up", lambda: silu_mul(torch.zeros(2, 4, dtype=torch.float64))),
    ],
)
def test_what_they_do_not_take(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(UnsupportedArgument) as refusal:
        call()
    assert refusal.value.argument == argument
