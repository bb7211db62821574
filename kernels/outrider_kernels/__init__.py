"""Tensor ops with a reference twin: one folder per op, `reference.py` in plain torch, dispatch in `__init__.py`."""

from outrider_kernels.packed_linear import Linear, packed_linear, plain_linear

__all__ = ["Linear", "packed_linear", "plain_linear"]
