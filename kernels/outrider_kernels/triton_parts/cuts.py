"""Where top-k, nucleus and min-p cut a row, exactly: a logit, and the last token kept among those equal to it.

Logits are compared as integers of the same order. The least key t is searched that fewer than k tokens exceed, with
less than the nucleus' mass: by halving a range, counting and weighing each time. What is counted are the few tokens
above a bound that is certain to be low enough, copied together; the whole row where they are too many.

The bound: what must be kept of a row's maxima over `BLOCK` interleaved parts, a subset, is no less than what must be
kept of all; and a token of a nucleus has more than (1 − top_p) / V.
"""

from __future__ import annotations

import triton
import triton.language as tl

from outrider_kernels.triton_parts.rows import LOG2E, NOBODY, is_cut

__all__ = ["cut_kernel"]


@triton.jit
def _key(values, SHIFT: tl.constexpr):
    """int32 in the order of the fp32 values; SHIFT: bits that a narrower type leaves empty."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> SHIFT


@triton.jit
def _value(key, SHIFT: tl.constexpr):
    key = (key << SHIFT) | ((key >> 31) & ((1 << SHIFT) - 1))
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _key_from(value, SHIFT: tl.constexpr):
    """The least key of values that are no less than `value`."""
    key = _key(value, 0)
    rest = (1 << SHIFT) - 1
    return tl.where(key >= 0, key + rest, key) >> SHIFT


@triton.jit
def _above(
    least, keys, weights, row, vocab, c, reference, WHOLE: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr
):
    """How many keys exceed `least`, and their weight: of those given, or of the WHOLE row."""
    if WHOLE:
        counts = tl.zeros([BLOCK], tl.int32)
        masses = tl.zeros([BLOCK], tl.float32)
        for start in range(0, vocab, BLOCK):
            tokens = start + tl.arange(0, BLOCK)
            values = tl.load(row + tokens, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
            over = _key(values, SHIFT) > least
            counts += over.to(tl.int32)
            masses += tl.where(over, tl.exp2(tl.fma(values, c, -reference)), 0.0)
    else:
        counts = (keys > least).to(tl.int32)
        masses = tl.where(keys > least, weights, 0.0)
    return tl.sum(counts), tl.sum(masses)


@triton.jit
def _search(
    low, high, most, limit, keys, weights, row, vocab, c, reference,
    WHOLE: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The least key in [low, high] that fewer than `most` exceed, weighing less than `limit`; `high` is one."""
    while low < high:
        middle = (low & high) + ((low ^ high) >> 1)
        count, mass = _above(middle, keys, weights, row, vocab, c, reference, WHOLE, SHIFT, BLOCK)
        fits = (count < most) & (mass < limit)
        high = tl.where(fits, middle, high)
        low = tl.where(fits, low, middle + 1)
    return high


@triton.jit
def _settle(
    low, high, floor, most, share, total, both, keys, weights, row, vocab, c, reference,
    WHOLE: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The cut's key, how many tokens equal to it are kept, how many there are, and the weight of all that is kept."""
    limit = share * total
    if both:  # the nucleus is a share of what top-k kept
        key = _search(low, high, most, float("inf"), keys, weights, row, vocab, c, reference, WHOLE, SHIFT, BLOCK)
        count, mass = _above(key, keys, weights, row, vocab, c, reference, WHOLE, SHIFT, BLOCK)
        upto, _ = _above(key - 1, keys, weights, row, vocab, c, reference, WHOLE, SHIFT, BLOCK)
        ties = tl.minimum(upto, most) - count
        limit = share * (mass + ties.to(tl.float32) * tl.exp2(tl.fma(_value(key, SHIFT), c, -reference)))
    low = tl.minimum(tl.maximum(low, floor), high)
    key = _search(low, high, most, limit, keys, weights, row, vocab, c, reference, WHOLE, SHIFT, BLOCK)
    count, mass = _above(key, keys, weights, row, vocab, c, reference, WHOLE, SHIFT, BLOCK)
    upto, _ = _above(key - 1, keys, weights, row, vocab, c, reference, WHOLE, SHIFT, BLOCK)
    weight = tl.exp2(tl.fma(_value(key, SHIFT), c, -reference))
    room = tl.minimum(tl.ceil((limit - mass) / weight), 1e9).to(tl.int32)  # of an infinite limit, too
    ties = upto - count
    kept = tl.minimum(tl.minimum(room, most - count), ties)
    return key, kept, ties, mass + kept.to(tl.float32) * weight


@triton.jit
def cut_kernel(
    logits, stride, vocab, request, temperature, top_p, top_k, min_p, stats, scratch, cut_at, cut_token,
    HAS_REQUEST: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr, ROOM: tl.constexpr,
):  # fmt: skip
    """One program per row: least logit kept and weight of all that is, fp32 [n, 2]; last token kept of its equals."""
    row = tl.program_id(0).to(tl.int64)
    if HAS_REQUEST:
        if tl.load(request + row) < 0:
            return
    heat = tl.load(temperature + row)
    if heat <= 0:
        return
    if is_cut(row, top_p, top_k, min_p, vocab) == 0:
        return
    logits += row * stride
    scratch += row * ROOM
    c = LOG2E / heat
    reference = tl.load(stats + row * 4 + 2)
    total = tl.load(stats + row * 4 + 3)
    asked = tl.load(top_k + row)
    by_rank = (asked > 0) & (asked < vocab)
    most = tl.where(by_rank, asked, vocab + 1).to(tl.int32)
    share = tl.load(top_p + row)
    by_mass = share < 1.0
    share = tl.where(by_mass, tl.maximum(share, 1e-9), float("inf"))
    both = by_rank & by_mass

    maxima = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        values = tl.load(logits + tokens, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
        maxima = tl.maximum(maxima, values)
    greatest = tl.max(maxima)
    high = _key(greatest, SHIFT)
    low = tl.minimum(high, -2139095041 >> SHIFT)  # the key of −∞
    floor = _key_from(greatest + tl.log2(tl.load(min_p + row)) / c, SHIFT)

    peaks = tl.exp2(tl.fma(maxima, c, -reference))
    limit = tl.where(both, float("inf"), share * total * 1.0001)
    bound = _search(
        low, high, most, limit, _key(maxima, SHIFT), peaks, logits, vocab, c, reference, False, SHIFT, BLOCK
    )
    thin = (1.0 - share - 2e-6) * 0.999 * total / vocab
    if both == 0:
        if by_mass & (thin > 0):
            bound = tl.maximum(bound, _key((reference + tl.log2(thin)) / c, SHIFT))
        bound = tl.maximum(bound, floor)
    bound = tl.minimum(bound, high)

    count = 0
    for start in range(0, vocab, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        values = tl.load(logits + tokens, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
        above = (_key(values, SHIFT) >= bound) & (tokens < vocab)
        places = count + tl.cumsum(above.to(tl.int32)) - 1
        tl.store(scratch + places, values, mask=above & (places < ROOM))
        count += tl.sum(above.to(tl.int32))
    tl.debug_barrier()
    room = tl.arange(0, ROOM)
    copied = tl.load(scratch + room, mask=room < tl.minimum(count, ROOM), other=float("-inf"))
    weights = tl.exp2(tl.fma(copied, c, -reference))
    keys = _key(copied, SHIFT)
    if count <= ROOM:
        key, kept, ties, mass = _settle(
            bound, high, floor, most, share, total, both, keys, weights, logits, vocab, c, reference,
            False, SHIFT, BLOCK,
        )  # fmt: skip
    else:
        key, kept, ties, mass = _settle(
            bound, high, floor, most, share, total, both, keys, weights, logits, vocab, c, reference, True, SHIFT, BLOCK
        )
    last = NOBODY
    if kept < ties:
        seen = 0
        for start in range(0, vocab, BLOCK):
            tokens = start + tl.arange(0, BLOCK)
            values = tl.load(logits + tokens, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
            equal = (_key(values, SHIFT) == key) & (tokens < vocab)
            order = seen + tl.cumsum(equal.to(tl.int32))
            last = tl.minimum(last, tl.min(tl.where(equal & (order == kept), tokens, NOBODY)))
            seen += tl.sum(equal.to(tl.int32))
    tl.store(cut_at + row * 2, _value(key, SHIFT))
    tl.store(cut_at + row * 2 + 1, mass)
    tl.store(cut_token + row, last)
