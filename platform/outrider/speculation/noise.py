"""Counter-based exponential noise: a pure function of (seed, choice, position, token).

Draft and target evaluate the same function, so nothing random crosses the wire, and a restarted process or another
device draws the same numbers. Position is the absolute position of the token *being chosen*. The rejection rule's
streams take (seed, choice, round, slot, stream) in place of it: a position that is drafted again must meet new noise.

    key(row)   = splitmix64 chained over seed, choice, position      → two 32-bit halves k0, k1
                 (seed, choice, round, 4·slot + stream for the rejection rule)
    i(row, v)  = mix32(mix32(v·φ ^ k0) ^ k1)                          32-bit integer
    u          = (i + ½)·2⁻³², at most 1 − 2⁻²⁴
    E(row, v)  = −log1p(−u)                                           Exp(1)

−log1p(−u) rather than −log(u): the latter rounds to zero in fp32 for u near one and then any token would win. fp32
rounds the largest i up to u = 1, where E is infinite: the only token of a one-token nucleus would then lose to token 0.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
import torch
from torch import Tensor

__all__ = ["Stream", "race_noise", "row_keys", "splitmix64", "stream_noise", "stream_uniform"]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_TOKEN_STRIDE: Final = 0x9E3779B1 - (1 << 32)  # 2³²/φ as a wrapped int32: spreads neighbouring token ids
_LARGEST: Final = 1.0 - 2.0**-24
_MIX_A: Final = 0x7FEB352D  # lowbias32 (Wellons), bias 0.17 per mille over all inputs
_MIX_B: Final = 0x846CA68B - (1 << 32)


class Stream(IntEnum):
    """The rejection rule's independent draws of one slot."""

    DRAFT = 0
    ACCEPT = 1
    FINAL = 2
    """The token that ends a round: from the residual, or the bonus."""


def splitmix64(state: np.ndarray) -> np.ndarray:
    """One output of SplitMix64 (Steele et al., 2014) for each 64-bit state."""
    z = state + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def row_keys(*counters: Tensor) -> Tensor:
    """Two 32-bit keys per row, shape [n, 2] int32, from int64 tensors of shape [n]."""
    with np.errstate(over="ignore"):
        key = np.zeros(1, dtype=np.uint64)
        for counter in counters:
            key = splitmix64(key ^ counter.cpu().numpy().astype(np.uint64))
    return torch.from_numpy(key.view(np.int32).reshape(-1, 2).copy())


def _mix32(x: Tensor) -> Tensor:
    """lowbias32 in place on int32 lanes; `&` makes the arithmetic shifts logical."""
    x ^= (x >> 16) & 0xFFFF
    x *= _MIX_A
    x ^= (x >> 15) & 0x1FFFF
    x *= _MIX_B
    x ^= (x >> 16) & 0xFFFF
    return x


def race_noise(seeds: Tensor, choices: Tensor, positions: Tensor, vocab: int) -> Tensor:
    """Exponential noise E, fp32 [n, vocab], for int64 seeds, choices and positions of shape [n]."""
    return torch.log1p(_uniform(row_keys(seeds, choices, positions).to(seeds.device), vocab).neg_()).neg_()


def stream_noise(seeds: Tensor, choices: Tensor, rounds: Tensor, slots: Tensor, stream: Stream, lanes: int) -> Tensor:
    """Exponential noise E, fp32 [n, lanes], of one stream of the rejection rule; everything else int64 [n]."""
    return torch.log1p(stream_uniform(seeds, choices, rounds, slots, stream, lanes).neg_()).neg_()


def stream_uniform(seeds: Tensor, choices: Tensor, rounds: Tensor, slots: Tensor, stream: Stream, lanes: int) -> Tensor:
    """Uniform noise in (0, 1), fp32 [n, lanes], of one stream of the rejection rule; everything else int64 [n]."""
    return _uniform(row_keys(seeds, choices, rounds, 4 * slots + stream).to(seeds.device), lanes)


def _uniform(keys: Tensor, lanes: int) -> Tensor:
    tokens = torch.arange(lanes, dtype=torch.int32, device=keys.device) * _TOKEN_STRIDE
    mixed = _mix32(tokens[None, :] ^ keys[:, :1])
    mixed ^= keys[:, 1:]
    integers = _mix32(mixed).to(torch.int64) & 0xFFFFFFFF
    return integers.to(torch.float32).add_(0.5).mul_(2.0**-32).clamp_(max=_LARGEST)
