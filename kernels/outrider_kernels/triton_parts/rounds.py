"""Small kernels that end a verification: parts of rows put together, drafts judged, rounds counted."""

from __future__ import annotations

import triton
import triton.language as tl

from outrider_kernels.counter_noise.triton import stream_key, uniform_noise
from outrider_kernels.triton_parts.leaders import prefer
from outrider_kernels.triton_parts.rows import LOG2E, NOBODY, above_cut, is_cut

__all__ = ["accept_kernel", "judge_kernel", "merge_kernel", "settle_kernel"]

_LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def _told(row, token, logits, stride, reference, total):
    """log softmax of a row's logits at one token, of the row's sums at T = 1; 0 for none."""
    logit = tl.load(logits + row * stride + token, mask=token >= 0, other=0.0).to(tl.float32)
    return tl.where(token >= 0, (tl.fma(logit, LOG2E, -reference) - tl.log2(total)) * _LN2, 0.0)


@triton.jit
def _sums(floats, at, inside):
    """Reference and sum of exponentials of all parts together."""
    references = tl.load(floats + at, mask=inside, other=-1e38)
    sums = tl.load(floats + at + 1, mask=inside, other=0.0)
    reference = tl.max(references)
    return reference, tl.sum(sums * tl.exp2(references - reference))


@triton.jit
def merge_kernel(
    logits, stride, request, temperature, rounds, drafts, floats, tokens, stats, chosen, logprobs, parts,
    PARTS: tl.constexpr, HAS_REQUEST: tl.constexpr, RANDOM: tl.constexpr, TEMPERED: tl.constexpr, REJECTS: tl.constexpr,
):  # fmt: skip
    """One program per row: its sums, and the winner of its parts; a rejection row's token is its draft for now."""
    row = tl.program_id(0).to(tl.int64)
    if HAS_REQUEST:
        if tl.load(request + row) < 0:
            tl.store(chosen + row, -1)
            tl.store(logprobs + row, 0.0)
            return
    part = tl.arange(0, PARTS)
    inside = part < parts
    at = (row * parts + part) * 6
    reference, total = _sums(floats, at, inside)
    tl.store(stats + row * 4, reference)
    tl.store(stats + row * 4 + 1, total)
    if TEMPERED:
        warm, warm_total = _sums(floats, at + 2, inside)
        tl.store(stats + row * 4 + 2, warm)
        tl.store(stats + row * 4 + 3, warm_total)
    references = tl.load(floats + at + 4, mask=inside, other=-1e38)
    leaders = tl.load(tokens + (row * parts + part) * 2, mask=inside, other=NOBODY)
    highest = tl.max(references)
    if RANDOM:
        scores = tl.load(floats + at + 5, mask=inside, other=1.0) * tl.exp2(highest - references)
        scores = tl.where(tl.load(temperature + row) > 0, scores, -references)
    else:
        scores = -references
    scores = tl.where(leaders == NOBODY, float("inf"), scores)
    first = tl.min(tl.where(scores == tl.min(scores), leaders, NOBODY))
    token = tl.where(first == NOBODY, 0, first).to(tl.int64)
    if REJECTS:
        rejecting = (tl.load(rounds + row) >= 0) & (tl.load(temperature + row) > 0)
        token = tl.where(rejecting, tl.load(drafts + row), token)
    tl.store(chosen + row, token)
    if HAS_REQUEST:
        tl.store(logprobs + row, _told(row, token, logits, stride, reference, total))


@triton.jit
def judge_kernel(
    logits, stride, vocab, query_start, slot, temperature, top_p, top_k, min_p, seeds, choices, rounds, drafts,
    q_tokens, q_probs, width, stats, cut_at, cut_token, accepted, ends,
    WIDTH: tl.constexpr, CUTS: tl.constexpr,
):  # fmt: skip
    """One program per request under the rejection rule: how many drafted tokens are accepted; marks the row after."""
    request = tl.program_id(0)
    start = tl.load(query_start + request)
    end = tl.load(query_start + request + 1)
    if end <= start:
        return
    if tl.load(rounds + start) < 0:
        return
    heat = tl.load(temperature + start)
    if heat <= 0:
        return
    c = LOG2E / heat
    place = tl.arange(0, WIDTH)
    row = start.to(tl.int64)
    going = row < end - 1
    while going:
        token = tl.load(drafts + row)
        logit = tl.load(logits + row * stride + token, mask=token >= 0, other=float("-inf")).to(tl.float32)
        weight = tl.exp2(tl.fma(logit, c, -tl.load(stats + row * 4 + 2)))
        total = tl.load(stats + row * 4 + 3)
        if CUTS:
            if is_cut(row, top_p, top_k, min_p, vocab):
                total = tl.load(cut_at + row * 2 + 1)
                kept = above_cut(logit, token, tl.load(cut_at + row * 2), tl.load(cut_token + row))
                weight = tl.where(kept, weight, 0.0)
        known = tl.load(q_tokens + row * width + place, mask=place < width, other=-1)
        masses = tl.load(q_probs + row * width + place, mask=place < width, other=0.0)
        q = tl.sum(tl.where(known == token, masses, 0.0))
        stream = (tl.load(seeds + row), tl.load(choices + row), tl.load(rounds + row))
        k0, k1 = stream_key(stream[0], stream[1], stream[2], tl.load(slot + row).to(tl.int64), 1)
        fits = (uniform_noise(k0, k1, k0 * 0) * q < weight / total) & (token >= 0)
        row += fits.to(tl.int64)
        going = fits & (row < end - 1)
    tl.store(accepted + request, (row - start).to(tl.int32))
    tl.store(ends + row, 1)


@triton.jit
def settle_kernel(
    logits, stride, vocab, request, temperature, top_p, top_k, min_p, rounds, ends, floats, tokens, stats, chosen,
    logprobs, parts,
    PARTS: tl.constexpr, HAS_REQUEST: tl.constexpr, CUTS: tl.constexpr, REJECTS: tl.constexpr,
):  # fmt: skip
    """One program per row that was raced once more: the winner of its parts, of p where the residual has none."""
    row = tl.program_id(0).to(tl.int64)
    if again(row, vocab, request, temperature, top_p, top_k, min_p, rounds, ends, HAS_REQUEST, CUTS, REJECTS) == 0:
        return
    part = tl.arange(0, PARTS)
    at = row * parts + part
    score = float("inf")
    token = NOBODY
    for kind in tl.static_range(2 if REJECTS else 1):
        if token == NOBODY:
            scores = tl.load(floats + at * 6 + 4 + kind, mask=part < parts, other=float("inf"))
            leaders = tl.load(tokens + at * 2 + kind, mask=part < parts, other=NOBODY)
            scores = tl.where(leaders == NOBODY, float("inf"), scores)
            least = tl.min(scores)
            score, token = prefer(score, token, least, tl.min(tl.where(scores == least, leaders, NOBODY)))
    token = tl.where(token == NOBODY, 0, token).to(tl.int64)
    tl.store(chosen + row, token)
    if HAS_REQUEST:
        reference = tl.load(stats + row * 4)
        total = tl.load(stats + row * 4 + 1)
        tl.store(logprobs + row, _told(row, token, logits, stride, reference, total))


@triton.jit
def again(
    row, vocab, request, temperature, top_p, top_k, min_p, rounds, ends,
    HAS_REQUEST: tl.constexpr, CUTS: tl.constexpr, REJECTS: tl.constexpr,
):  # fmt: skip
    """Whether a row is raced once its distribution is known: coupled rows that are cut, rows that end a rejection."""
    wanted = tl.load(temperature + row) > 0
    if HAS_REQUEST:
        wanted = wanted & (tl.load(request + row) >= 0)
    if REJECTS:
        rejecting = tl.load(rounds + row) >= 0
        ending = rejecting & (tl.load(ends + row) != 0)
        if CUTS:
            return wanted & (ending | ((rejecting == 0) & is_cut(row, top_p, top_k, min_p, vocab)))
        return wanted & ending
    return wanted & is_cut(row, top_p, top_k, min_p, vocab)


@triton.jit
def accept_kernel(query_start, temperature, rounds, drafts, chosen, accepted, last, REJECTS: tl.constexpr):
    """One program per request: accepted length (counted already under the rejection rule) and last token."""
    request = tl.program_id(0)
    start = tl.load(query_start + request)
    end = tl.load(query_start + request + 1)
    if end <= start:
        tl.store(accepted + request, 0)
        tl.store(last + request, -1)
        return
    counted = 0
    if REJECTS:
        counted = ((tl.load(rounds + start) >= 0) & (tl.load(temperature + start) > 0)).to(tl.int32)
    count = 0
    if counted == 1:
        count = tl.load(accepted + request)
    else:
        going = 1
        for row in range(start, end - 1):
            going = going & (tl.load(chosen + row) == tl.load(drafts + row)).to(tl.int32)
            count += going
        tl.store(accepted + request, count)
    tl.store(last + request, tl.load(chosen + start + count))
