"""The exponential race inside kernels that pass over a vocabulary: the best of l·log2 e / T − log2 E wins.

Shapes: n rows, V lanes of a tile. PLAIN: in the interpreter.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from outrider_kernels.counter_noise.triton import EXACT, exponential_noise, row_key, uniform_noise
from outrider_kernels.dispatch import interpreted

__all__ = ["SLACK", "fast_log2", "joined", "race_score", "raced", "rough_errors", "rough_log2_noise"]

SLACK: Final = 2.0**-14
"""Twice what the rough noise may be wrong by."""
_LOG2_LN2: Final = tl.constexpr(-0.5287663729448977)
_BLOCK: Final = 1024


@triton.jit
def fast_log2(x, PLAIN: tl.constexpr):
    """The hardware's logarithm: one instruction for some twenty-five, wrong by at most 2⁻²² (of it, beyond 1)."""
    if PLAIN:  # the interpreter takes no assembly
        return tl.log2(x)
    return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def rough_log2_noise(k0, k1, ids, PLAIN: tl.constexpr):
    """log2(E / ln 2), within 2⁻¹⁵ of the definition's, in half its instructions: a polynomial below u = ¼ (relative
    error 6.2e-7), the hardware's logarithm above.
    """
    u = uniform_noise(k0, k1, ids)
    series = tl.fma(u, 0.5140158534049988, 0.3049030303955078)
    series = tl.fma(u, series, 0.4861948490142822)
    series = tl.fma(u, series, 0.7211756706237793)
    series = tl.fma(u, series, 1.44269597530365)
    return fast_log2(tl.where(u < 0.25, u * series, -fast_log2(1.0 - u, PLAIN)), PLAIN)


@triton.jit
def joined(scores, ids, best, token):
    """A tile's scores joined to the best so far: scores and tokens [R]; among equals the first."""
    found = tl.max(scores, 1)
    lowest = tl.min(tl.where(scores == found[:, None], ids[None, :], 2147483647), 1)
    return tl.maximum(best, found), tl.where(found > best, lowest, token)


@triton.jit
def race_score(logit, racing, k0, k1, token, PLAIN: tl.constexpr):
    """Scores [R] of tokens by the noise as it is defined."""
    return logit - tl.where(racing, fast_log2(exponential_noise(k0, k1, token), PLAIN), 0.0)


@triton.jit
def raced(logits, racing, k0, k1, ids, best, token, logit, slack, PLAIN: tl.constexpr):
    """A tile's race joined to the best so far: scores and tokens [R], and the logits of those tokens.

    The race is run with rough noise. Where more than one score comes within `slack` of the best, in the tile or of what
    went before, all of the tile runs it again with the noise as it is defined: its winner is the definition's.
    """
    rough = rough_log2_noise(k0[:, None], k1[:, None], ids[None, :], PLAIN)  # finite: nothing times it is nothing
    scores = tl.fma(rough, tl.where(racing, -1.0, 0.0)[:, None], logits)
    most = tl.max(scores, 1)
    empty = most == float("-inf")
    doubt = slack + tl.where(empty, 0.0, tl.abs(most)) * 4.76837158203125e-7  # 2⁻²¹: what both differences round away
    near = scores >= tl.where(empty, float("inf"), most - doubt)[:, None]
    counted = tl.sum(tl.where(near, ids[None, :] + 16777216, 0), 1)  # their number above bit 24, their ids below
    found_logit = tl.sum(tl.where(near, logits, 0.0), 1)
    found = most - tl.where(racing, _LOG2_LN2, 0.0)
    unsure = (counted >= 33554432) | (tl.abs(found - tl.where(best == float("-inf"), float("inf"), best)) <= doubt)
    if tl.max(unsure.to(tl.int32), 0) > 0:
        noise = fast_log2(exponential_noise(k0[:, None], k1[:, None], ids[None, :]), PLAIN)
        scores = logits - tl.where(racing[:, None], noise, 0.0)
        found = tl.max(scores, 1)
        lowest = tl.min(tl.where(scores == found[:, None], ids[None, :], 2147483647), 1)
        found_logit = tl.max(tl.where(ids[None, :] == lowest[:, None], logits, float("-inf")), 1)
        best = race_score(logit, racing, k0, k1, token, PLAIN)
    else:
        lowest = counted - 16777216
    better = found > best
    return tl.where(better, found, best), tl.where(better, lowest, token), tl.where(better, found_logit, logit)


@triton.jit
def _errors_kernel(seeds, errors, lanes, PLAIN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    seed = tl.load(seeds + row)
    k0, k1 = row_key(seed, seed, seed)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exact = fast_log2(exponential_noise(k0, k1, ids), PLAIN)
    error = rough_log2_noise(k0, k1, ids, PLAIN) + _LOG2_LN2 - exact
    tl.store(errors + row * lanes + ids, error, mask=ids < lanes)


def rough_errors(seeds: Tensor, lanes: int) -> Tensor:
    """What the rough noise of rows with int64 [n] seeds is wrong by, fp32 [n, lanes], for tests to look at."""
    errors = torch.full((len(seeds), lanes), float("nan"), device=seeds.device)
    grid = (len(seeds), triton.cdiv(lanes, _BLOCK))
    _errors_kernel[grid](seeds, errors, lanes, PLAIN=interpreted(), BLOCK=_BLOCK, **EXACT)
    return errors
