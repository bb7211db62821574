"""The packed product against its reference, at odd shapes, and where it must not be used."""

from __future__ import annotations

import pytest
import torch

from outrider_kernels import packed_linear, plain_linear
from outrider_kernels.packed_linear.onednn import OneDnnLinear, onednn_fits

SHAPES = [(1, 1, 1), (1, 63, 64), (7, 256, 96), (8, 1000, 63), (128, 32, 1000), (0, 16, 16)]


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_it_equals_the_reference(rows: int, outputs: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(rows + outputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    x = torch.randn(rows, inputs, generator=generator)
    # fp32 sums of K products in another order differ by about K·2⁻²⁴ of their terms' size.
    bound = 4 * inputs * 2.0**-24 * float(x.abs().amax() if rows else 0.0) * float(weight.abs().amax()) + 1e-6
    torch.testing.assert_close(packed_linear(weight)(x), plain_linear(weight)(x), atol=bound, rtol=0)


def test_leading_dimensions_and_strided_rows() -> None:
    weight, x = torch.randn(48, 32), torch.randn(4, 3, 64)[..., ::2]
    with torch.inference_mode():
        found = packed_linear(weight)(x)
    assert found.shape == (4, 3, 48)
    torch.testing.assert_close(found, x @ weight.T, atol=1e-4, rtol=0)


def test_it_keeps_a_copy_of_the_weight() -> None:
    weight, x = torch.randn(8, 8), torch.randn(2, 8)
    if not onednn_fits(weight):
        pytest.skip("this torch has no packed products")
    product = packed_linear(weight)
    before = product(x)
    weight.zero_()
    assert torch.equal(product(x), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_take_the_reference(dtype: torch.dtype) -> None:
    weight = torch.randn(8, 8, dtype=dtype)
    assert not isinstance(packed_linear(weight), OneDnnLinear)
    assert torch.equal(packed_linear(weight)(weight), weight @ weight.T)
