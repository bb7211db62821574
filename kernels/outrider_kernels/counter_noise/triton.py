"""The noise inside other kernels, and a kernel that writes it out for tests.

A kernel that uses `exponential_noise` must be launched with `enable_fp_fusion=False` (`EXACT`): a fused multiply-add
rounds once where the definition rounds twice.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["EXACT", "exponential_noise", "exponential_rows", "row_key", "stream_key", "uniform_noise"]

EXACT: Final[dict[str, Any]] = {"enable_fp_fusion": False}
"""Launch options of a kernel whose noise must be the definition's to the bit."""

_BLOCK = 1024


@triton.jit
def _splitmix64(state):
    z = state + 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _halves(key):
    return (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32)


@triton.jit
def row_key(seed, choice, position):
    """k0, k1 (uint32) of the coupled rule's race, from int64 counters of any one shape."""
    key = _splitmix64(seed.to(tl.uint64, bitcast=True))
    key = _splitmix64(key ^ choice.to(tl.uint64, bitcast=True))
    return _halves(_splitmix64(key ^ position.to(tl.uint64, bitcast=True)))


@triton.jit
def stream_key(seed, choice, number, slot, stream: tl.constexpr):
    """k0, k1 (uint32) of one stream of the rejection rule: the number of its draw and its slot replace a position."""
    key = _splitmix64(seed.to(tl.uint64, bitcast=True))
    key = _splitmix64(key ^ choice.to(tl.uint64, bitcast=True))
    key = _splitmix64(key ^ number.to(tl.uint64, bitcast=True))
    return _halves(_splitmix64(key ^ (4 * slot + stream).to(tl.uint64, bitcast=True)))


@triton.jit
def _mix32(x):
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def uniform_noise(k0, k1, tokens):
    """u in (0, 1), fp32, of tokens (or places), which broadcast with the keys."""
    mixed = _mix32((tokens.to(tl.uint32) * 0x9E3779B1) ^ k0)
    integers = _mix32(mixed ^ k1)
    u = (integers.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    return tl.minimum(u, 0.99999994039535522)


@triton.jit
def exponential_noise(k0, k1, tokens):
    """E, fp32, of tokens (or places), which broadcast with the keys."""
    u = uniform_noise(k0, k1, tokens)
    rest = 1.0 - u
    lost = (1.0 - rest) - u
    bits = rest.to(tl.int32, bitcast=True)
    power = (bits - 0x3F3504F3) >> 23
    n = power.to(tl.float32)
    f = (bits - (power << 23)).to(tl.float32, bitcast=True) - 1.0
    p = f * 7.0376836292e-2
    p = (p + -1.1514610310e-1) * f
    p = (p + 1.1676998740e-1) * f
    p = (p + -1.2420140846e-1) * f
    p = (p + 1.4249322787e-1) * f
    p = (p + -1.6668057665e-1) * f
    p = (p + 2.0000714765e-1) * f
    p = (p + -2.4999993993e-1) * f
    p = p + 3.3333331174e-1
    p = p * f * f * f
    p = p - n * 2.12194440e-4
    p = p - f * 0.5 * f
    p = p + lost * (u + 1.0)
    return -((f + p) + n * 0.693359375)


@triton.jit
def _write_kernel(seeds, choices, positions, noise, lanes, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    k0, k1 = row_key(tl.load(seeds + row), tl.load(choices + row), tl.load(positions + row))
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(noise + row * lanes + tokens, exponential_noise(k0, k1, tokens), mask=tokens < lanes)


def exponential_rows(seeds: Tensor, choices: Tensor, positions: Tensor, lanes: int) -> Tensor:
    """E fp32 [n, lanes] of rows keyed by int64 [n] counters: what `exponential` gives, for tests to compare."""
    noise = torch.full((len(seeds), lanes), float("nan"), device=seeds.device)
    if noise.numel():
        grid = (len(seeds), triton.cdiv(lanes, _BLOCK))
        _write_kernel[grid](seeds, choices, positions, noise, lanes, BLOCK=_BLOCK, **EXACT)
    return noise
