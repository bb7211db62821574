"""The two rules' noise by what keys it; `outrider_kernels.counter_noise` has the function itself and its reasons.

The coupled rule's race is keyed by (seed, choice, position), position being the absolute position of the token *being
chosen*. The rejection rule's streams take (seed, choice, round, 4·slot + stream) in place of it: a position that is
drafted again must meet new noise.
"""

from __future__ import annotations

from enum import IntEnum

from torch import Tensor

from outrider_kernels import counter_noise

__all__ = ["Stream", "race_noise", "stream_noise", "stream_uniform"]


class Stream(IntEnum):
    """The rejection rule's independent draws of one slot."""

    DRAFT = 0
    ACCEPT = 1
    FINAL = 2
    """The token that ends a round: from the residual, or the bonus."""


def race_noise(seeds: Tensor, choices: Tensor, positions: Tensor, vocab: int) -> Tensor:
    """Exponential noise E, fp32 [n, vocab], for int64 seeds, choices and positions of shape [n]."""
    return counter_noise.exponential(counter_noise.row_keys(seeds, choices, positions).to(seeds.device), vocab)


def stream_noise(seeds: Tensor, choices: Tensor, rounds: Tensor, slots: Tensor, stream: Stream, lanes: int) -> Tensor:
    """Exponential noise E, fp32 [n, lanes], of one stream of the rejection rule; everything else int64 [n]."""
    return counter_noise.exponential(_stream_keys(seeds, choices, rounds, slots, stream), lanes)


def stream_uniform(seeds: Tensor, choices: Tensor, rounds: Tensor, slots: Tensor, stream: Stream, lanes: int) -> Tensor:
    """Uniform noise in (0, 1), fp32 [n, lanes], of one stream of the rejection rule; everything else int64 [n]."""
    return counter_noise.uniform(_stream_keys(seeds, choices, rounds, slots, stream), lanes)


def _stream_keys(seeds: Tensor, choices: Tensor, rounds: Tensor, slots: Tensor, stream: Stream) -> Tensor:
    return counter_noise.row_keys(seeds, choices, rounds, 4 * slots + stream).to(seeds.device)
