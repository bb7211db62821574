"""The noise in NumPy (keys) and torch (lanes), on any device.

Shapes: n rows, V lanes (tokens, or places of a sparse distribution).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

__all__ = ["exponential", "minus_log1m", "row_keys", "splitmix64", "torch_row_keys", "uniform"]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_TOKEN_STRIDE: Final = 0x9E3779B1 - (1 << 32)  # 2³²/φ as a wrapped int32: spreads neighbouring token ids
_LARGEST: Final = 1.0 - 2.0**-24
_MIX_A: Final = 0x7FEB352D  # lowbias32 (Wellons), bias 0.17 per mille over all inputs
_MIX_B: Final = 0x846CA68B - (1 << 32)
_SQRT_HALF: Final = 0x3F3504F3  # bits of √½
_LOG_TAIL: Final = (
    -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
    -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
"""Cephes' logf, after its first coefficient."""
_LANES_AT_ONCE: Final = 1 << 15
"""Temporaries of some thirty operations stay in a core's cache."""


def splitmix64(state: np.ndarray) -> np.ndarray:
    """One output of SplitMix64 (Steele et al., 2014) for each 64-bit state."""
    z = state + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def row_keys(*counters: Tensor) -> Tensor:
    """Two 32-bit keys per row, int32 [n, 2] on their device, from int64 tensors [n].

    Beside the CPU nobody may wait for a device, and torch computes them there.
    """
    if counters[0].device.type != "cpu":
        return torch_row_keys(*counters)
    with np.errstate(over="ignore"):
        key = np.zeros(1, dtype=np.uint64)
        for counter in counters:
            key = splitmix64(key ^ counter.numpy().astype(np.uint64))
    return torch.from_numpy(key.view(np.int32).reshape(-1, 2).copy())


def torch_row_keys(*counters: Tensor) -> Tensor:
    """As `row_keys`, in torch: int64 wraps as uint64 does, and `&` makes the arithmetic shifts logical."""
    key = torch.zeros_like(counters[0])
    for counter in counters:
        z = (key ^ counter) + _wrapped(int(_GOLDEN))
        z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _wrapped(0xBF58476D1CE4E5B9)
        z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _wrapped(0x94D049BB133111EB)
        key = z ^ ((z >> 31) & ((1 << 33) - 1))
    return key.contiguous().view(torch.int32).view(-1, 2)


def _wrapped(bits: int) -> int:
    """64 bits as a signed number."""
    return bits - (1 << 64) if bits >> 63 else bits


def uniform(keys: Tensor, lanes: int) -> Tensor:
    """u in (0, 1), fp32 [n, lanes], of rows with the given keys, int32 [n, 2]."""
    tokens = torch.arange(lanes, dtype=torch.int32, device=keys.device) * _TOKEN_STRIDE
    mixed = _mix32(tokens[None, :] ^ keys[:, :1])
    mixed ^= keys[:, 1:]
    integers = _mix32(mixed).to(torch.int64) & 0xFFFFFFFF
    return integers.to(torch.float32).add_(0.5).mul_(2.0**-32).clamp_(max=_LARGEST)


def exponential(keys: Tensor, lanes: int) -> Tensor:
    """E, fp32 [n, lanes], of rows with the given keys, int32 [n, 2]."""
    noise = uniform(keys, lanes)
    flat = noise.view(-1)
    for part in torch.split(flat, _LANES_AT_ONCE):
        part.copy_(minus_log1m(part))
    return noise


def minus_log1m(u: Tensor) -> Tensor:
    """−log(1 − u) of fp32 in (0, 1), within 2 ulp: Cephes' logf, and what 1 − u rounds away is added back.

    Every operation here is one rounding, in this order: other devices repeat it.
    """
    rest = 1.0 - u
    lost = (1.0 - rest) - u  # true 1 − u is rest + lost
    bits = rest.view(torch.int32)
    power = (bits - _SQRT_HALF) >> 23  # mantissas from √½ to √2
    n = power.to(torch.float32)
    f = (bits - (power << 23)).view(torch.float32) - 1.0
    p = f * 7.0376836292e-2
    for coefficient in _LOG_TAIL[:-1]:
        p = (p + coefficient) * f
    p = p + _LOG_TAIL[-1]
    p = p * f * f * f
    p = p - n * 2.12194440e-4
    p = p - f * 0.5 * f
    p = p + lost * (u + 1.0)
    return -((f + p) + n * 0.693359375)


def _mix32(x: Tensor) -> Tensor:
    """lowbias32 in place on int32 lanes; `&` makes the arithmetic shifts logical."""
    x ^= (x >> 16) & 0xFFFF
    x *= _MIX_A
    x ^= (x >> 15) & 0x1FFFF
    x *= _MIX_B
    x ^= (x >> 16) & 0xFFFF
    return x
