"""A whole step of a Qwen3-shaped decoder as one call, compiled by the host's own compiler.

Why: at a few million parameters a step is framework calls, and the rest streams weights. One row of the 6 M demo model
on 200 rows of context took 5.2 ms in stock modules, 3.6 in fused torch operations and 0.6 here; of a 14 M one 8.8, 6.6
and 2.3, or 1.5 where its weights are bf16 (one thread, the least of 44 turns on a loaded host).
"""

from __future__ import annotations

from outrider_kernels.decoder_step.build import CACHE_VARIABLE, BuildError, built, library, loaded
from outrider_kernels.decoder_step.native import NativeStep, native_fits
from outrider_kernels.decoder_step.native_draft import NativeDraft, native_choose, native_noise, store_context
from outrider_kernels.decoder_step.pending import PendingStep
from outrider_kernels.decoder_step.reference import reference_context, reference_draw, reference_step
from outrider_kernels.decoder_step.weights import DecoderLayer, DecoderRows, DecoderWeights, HeadWeights, Projection

__all__ = [
    "CACHE_VARIABLE",
    "BuildError",
    "DecoderLayer",
    "DecoderRows",
    "DecoderWeights",
    "HeadWeights",
    "NativeDraft",
    "NativeStep",
    "PendingStep",
    "Projection",
    "built",
    "library",
    "loaded",
    "native_choose",
    "native_fits",
    "native_noise",
    "reference_context",
    "reference_draw",
    "reference_step",
    "store_context",
]
