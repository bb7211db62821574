"""Finding the winner of an exponential race without a logarithm per token.

Scores are E·2^(R − l·c): E/p up to a factor, c = log₂e / T, R a reference. E ≥ u, so only tokens with u·2^(R − l·c) up
to the leader's score S can win: an integer comparison of the noise against a bound that the greatest logit of a group
gives for all of it. What passes is computed exactly. As 2⁻³³ is the least u, groups less probable than that against the
leader are not even drawn for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from outrider_kernels.counter_noise.triton import exponential_noise
from outrider_kernels.triton_parts.rows import NOBODY

__all__ = ["STRIDE", "contest", "contest_left", "contestants", "folded", "noise_bits", "prefer", "upper_bits"]

STRIDE: tl.constexpr = tl.constexpr(0x9E3779B1)
"""What `uniform_noise` multiplies tokens by."""
_SLACK: tl.constexpr = tl.constexpr(0.02)
"""In powers of two: more than all roundings of u, E and the bound together, and 1.4 % more groups than needed."""
_LEAST: tl.constexpr = tl.constexpr(-33.0)
"""log₂ of the least u."""


@triton.jit
def folded(key):
    """k ^ k≫16, what `noise_bits` takes: the xor-shift of a key apart from that of the token."""
    return key ^ (key >> 16)


@triton.jit
def noise_bits(f0, f1, products):
    """uint32 whose upper 16 bits are those of the noise's integer, for folded keys and tokens times `STRIDE`.

    `uniform_noise` with three of its four xor-shifts by 16 gone: x ^ x≫16 applied twice is x, and the last one leaves
    the upper half alone.
    """
    x = (products ^ (products >> 16) ^ f0) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    x = (x ^ f1) * 0x7FEB352D
    return (x ^ (x >> 15)) * 0x846CA68B


@triton.jit
def contestants(greatest, start, f0, f1, c, reference, score, E: tl.constexpr):
    """Which groups [G] of E tokens from `start` on may hold one that beats `score`, and how many; greatest: their
    largest logits.
    """
    room = tl.fma(greatest, c, -reference) + tl.log2(score)
    flags = room > _LEAST - _SLACK
    found = tl.sum(flags.to(tl.int32))
    if found > 0:
        bound = tl.minimum(tl.exp2(tl.minimum(room + (32.0 + _SLACK), 32.0)), 4294967040.0).to(tl.uint32) | 0xFFFF
        firsts = (start + tl.arange(0, greatest.shape[0]) * E).to(tl.uint32) * STRIDE
        products = firsts[:, None] + (tl.arange(0, E).to(tl.uint32) * STRIDE)[None, :]  # constants, added
        flags = flags & (tl.min(noise_bits(f0, f1, products), axis=1) <= bound)
        found = tl.sum(flags.to(tl.int32))
    return flags, found


@triton.jit
def prefer(score, token, others, other_tokens):
    """The lower score and its token, the lowest of equals, of a leader and one that challenges it."""
    wins = (others < score) | ((others == score) & (other_tokens < token))
    return tl.where(wins, others, score), tl.where(wins, other_tokens, token)


@triton.jit
def _least(scores, tokens):
    least = tl.min(scores)
    first = tl.min(tl.where(scores == least, tokens, NOBODY))
    return least, tl.where(least < float("inf"), first, NOBODY)


@triton.jit
def contest(values, tokens, k0, k1, c, reference, score, leader):
    """The leader after a race with more tokens; the reference grows with the greatest logit, and the score with it."""
    raised = tl.maximum(reference, tl.max(values) * c)
    scores = exponential_noise(k0, k1, tokens) * tl.exp2(tl.fma(values, -c, raised))
    least, first = _least(scores, tokens)
    score, leader = prefer(score * tl.exp2(raised - reference), leader, least, first)
    return raised, score, leader


@triton.jit
def contest_left(
    values, tokens, k0, k1, c, reference, total, q_tokens, q_probs, width, score, leader, p_score, p_leader
):
    """The leaders of two races, over max(p − q, 0) and over p, after more tokens; p is 2^(l·c − R) / total.

    q's `width` places are searched for every token here: few tiles come this far, and no bitmap has to be kept.
    """
    weights = tl.exp2(tl.fma(values, c, -reference))
    noise = exponential_noise(k0, k1, tokens)
    p_least, p_first = _least(tl.where(weights > 0, noise / weights, float("inf")), tokens)
    p_score, p_leader = prefer(p_score, p_leader, p_least, p_first)
    q = weights * 0.0
    for place in range(0, width):
        q += tl.where(tokens == tl.load(q_tokens + place), tl.load(q_probs + place), 0.0)
    left = weights - q * total
    least, first = _least(tl.where(left > 0, noise / left, float("inf")), tokens)
    score, leader = prefer(score, leader, least, first)
    return score, leader, p_score, p_leader


@triton.jit
def _bits_kernel(keys, out, lanes, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    f0 = folded(tl.load(keys + row * 2).to(tl.uint32, bitcast=True))
    f1 = folded(tl.load(keys + row * 2 + 1).to(tl.uint32, bitcast=True))
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    bits = noise_bits(f0, f1, tokens.to(tl.uint32) * STRIDE)
    tl.store(out + row * lanes + tokens, (bits >> 16).to(tl.int64), mask=tokens < lanes)


def upper_bits(keys: Tensor, lanes: int) -> Tensor:
    """int64 [n, lanes]: the upper halves of the noise's integers for keys int32 [n, 2], for tests to compare."""
    out = torch.full((len(keys), lanes), -1, dtype=torch.int64, device=keys.device)
    _bits_kernel[(len(keys), triton.cdiv(lanes, 1024))](keys, out, lanes, BLOCK=1024)
    return out
