"""Reading rows of logits: tiles of G groups of E neighbours, 16 bytes of one thread each, and what a row asks for."""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

__all__ = ["LOG2E", "NOBODY", "above_cut", "is_cut", "load_tile"]

LOG2E: Final = tl.constexpr(1.4426950408889634)
NOBODY: Final = tl.constexpr(0x7FFFFFFF)
"""In place of a token: nothing has been found yet."""


@triton.jit
def load_tile(row, start, vocab, G: tl.constexpr, E: tl.constexpr, EVEN: tl.constexpr):
    """fp32 [G, E] from logit `start` of a row on, −∞ beyond the vocabulary, and their tokens. EVEN: E divides it."""
    groups = start + tl.arange(0, G) * E
    tokens = groups[:, None] + tl.arange(0, E)[None, :]
    if EVEN:
        inside = (groups < vocab)[:, None]
    else:
        inside = tokens < vocab
    return tl.load(row + tokens, mask=inside, other=float("-inf")).to(tl.float32), tokens


@triton.jit
def is_cut(row, top_p, top_k, min_p, vocab):
    """Whether a sampled row is cut to less than the whole softmax."""
    most = tl.load(top_k + row)
    return ((most > 0) & (most < vocab)) | (tl.load(top_p + row) < 1.0) | (tl.load(min_p + row) > 0.0)


@triton.jit
def above_cut(values, tokens, least, last):
    """Whether logits are kept: more than the cut's `least`, or equal to it and a token up to `last`."""
    return (values > least) | ((values == least) & (tokens <= last))
