"""Ops with a reference twin: one folder per op, `reference.py` in plain torch, dispatch in `__init__.py`."""

from outrider_kernels.decoder_step import (
    BuildError,
    DecoderLayer,
    DecoderRows,
    DecoderWeights,
    HeadWeights,
    NativeDraft,
    NativeStep,
    PendingStep,
    Projection,
    library,
    loaded,
    native_choose,
    store_context,
)
from outrider_kernels.packed_linear import Linear, packed_linear, plain_linear

__all__ = [
    "BuildError",
    "DecoderLayer",
    "DecoderRows",
    "DecoderWeights",
    "HeadWeights",
    "Linear",
    "NativeDraft",
    "NativeStep",
    "PendingStep",
    "Projection",
    "library",
    "loaded",
    "native_choose",
    "packed_linear",
    "plain_linear",
    "store_context",
]
