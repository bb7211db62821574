"""Verification's two passes over the logits: of all rows, and of those that are raced once more is known of them.

Shapes: G groups of E neighbouring tokens make a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from outrider_kernels.counter_noise.triton import row_key, stream_key
from outrider_kernels.triton_parts.leaders import contest, contest_left, contestants, folded
from outrider_kernels.triton_parts.rounds import again
from outrider_kernels.triton_parts.rows import LOG2E, NOBODY, above_cut, is_cut, load_tile

__all__ = ["race_kernel", "scan_kernel"]

_FEW: tl.constexpr = tl.constexpr(12)
"""Groups of a tile that are computed one by one; more, and the whole tile is."""


@triton.jit
def _lanes_add(values, references, sums, c):
    """Online sums of 2^(l·c) per group of a tile: references [G] in powers of two."""
    raised = tl.maximum(references, tl.max(values, axis=1) * c)
    return raised, sums * tl.exp2(references - raised) + tl.sum(tl.exp2(tl.fma(values, c, -raised[:, None])), axis=1)


@triton.jit
def scan_kernel(
    logits, stride, vocab, request, temperature, top_p, top_k, min_p, seeds, choices, positions, rounds,
    floats, tokens_out, per_part, parts,
    G: tl.constexpr, E: tl.constexpr, CHUNK: tl.constexpr, EVEN: tl.constexpr, HAS_REQUEST: tl.constexpr,
    RANDOM: tl.constexpr, CUTS: tl.constexpr, REJECTS: tl.constexpr,
):  # fmt: skip
    """One program per part of a row."""
    part = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    if HAS_REQUEST:
        if tl.load(request + row) < 0:
            return
    base = logits + row * stride
    heat = 0.0
    races = False
    tempered = False
    if RANDOM:
        heat = tl.load(temperature + row)
        races = heat > 0
        if CUTS:
            tempered = races & is_cut(row, top_p, top_k, min_p, vocab)
        if REJECTS:
            tempered = tempered | (races & (tl.load(rounds + row) >= 0))
        races = races & (tempered == 0)
        c = LOG2E / tl.where(heat > 0, heat, 1.0)
        k0, k1 = row_key(tl.load(seeds + row), tl.load(choices + row), tl.load(positions + row))
        f0, f1 = folded(k0), folded(k1)
        warm = tl.full([G], -1e38, tl.float32)
        warm_sums = tl.zeros([G], tl.float32)
    lanes = tl.full([G], -1e38, tl.float32)
    sums = tl.zeros([G], tl.float32)
    group = tl.arange(0, G)
    reference = -1e38
    score = 1.0
    leader = NOBODY
    begin = part * per_part
    for start in range(begin, tl.minimum(begin + per_part, vocab), G * E):
        values, tokens = load_tile(base, start, vocab, G, E, EVEN)
        greatest = tl.max(values, axis=1)
        lanes, sums = _lanes_add(values, lanes, sums, LOG2E)
        if heat <= 0:
            top = tl.max(greatest)
            if top > reference:
                reference = top
                leader = tl.min(tl.where(values == top, tokens, NOBODY))
        if RANDOM:
            if tempered:
                warm, warm_sums = _lanes_add(values, warm, warm_sums, c)
            if races:
                flags, found = contestants(greatest, start, f0, f1, c, reference, score, E)
                if found > _FEW:
                    for some_start in range(start, start + G * E, CHUNK):
                        few = some_start + tl.arange(0, CHUNK)
                        some = tl.load(base + few, mask=few < vocab, other=float("-inf")).to(tl.float32)
                        reference, score, leader = contest(some, few, k0, k1, c, reference, score, leader)
                else:
                    for _ in range(0, found):
                        first = tl.min(tl.where(flags, group, G))
                        flags = flags & (group != first)
                        few = start + first * E + tl.arange(0, E)
                        some = tl.load(base + few, mask=few < vocab, other=float("-inf")).to(tl.float32)
                        reference, score, leader = contest(some, few, k0, k1, c, reference, score, leader)
    at = row * parts + part
    highest = tl.max(lanes)
    tl.store(floats + at * 6, highest)
    tl.store(floats + at * 6 + 1, tl.sum(sums * tl.exp2(lanes - highest)))
    if CUTS or REJECTS:
        highest = tl.max(warm)
        tl.store(floats + at * 6 + 2, highest)
        tl.store(floats + at * 6 + 3, tl.sum(warm_sums * tl.exp2(warm - highest)))
    tl.store(floats + at * 6 + 4, reference)
    tl.store(floats + at * 6 + 5, score)
    tl.store(tokens_out + at * 2, leader)


@triton.jit
def race_kernel(
    logits, stride, vocab, request, slot, temperature, top_p, top_k, min_p, seeds, choices, positions, rounds, ends,
    q_tokens, q_probs, width, stats, cut_at, cut_token, floats, tokens_out, per_part, parts,
    G: tl.constexpr, E: tl.constexpr, CHUNK: tl.constexpr, EVEN: tl.constexpr, HAS_REQUEST: tl.constexpr,
    CUTS: tl.constexpr, REJECTS: tl.constexpr,
):  # fmt: skip
    """One program per part of a row, for rows that are raced again."""
    part = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    if again(row, vocab, request, temperature, top_p, top_k, min_p, rounds, ends, HAS_REQUEST, CUTS, REJECTS) == 0:
        return
    base = logits + row * stride
    c = LOG2E / tl.load(temperature + row)
    reference = tl.load(stats + row * 4 + 2)
    total = tl.load(stats + row * 4 + 3)
    k0, k1 = row_key(tl.load(seeds + row), tl.load(choices + row), tl.load(positions + row))
    places = 0
    if REJECTS:
        number = tl.load(rounds + row)
        r0, r1 = stream_key(tl.load(seeds + row), tl.load(choices + row), number, tl.load(slot + row).to(tl.int64), 2)
        k0 = tl.where(number >= 0, r0, k0)
        k1 = tl.where(number >= 0, r1, k1)
        places = tl.where(number >= 0, width, 0)
    f0, f1 = folded(k0), folded(k1)
    cut = False
    least = float("-inf")
    last = NOBODY
    if CUTS:
        cut = is_cut(row, top_p, top_k, min_p, vocab)
        if cut:
            least = tl.load(cut_at + row * 2)
            total = tl.load(cut_at + row * 2 + 1)
            last = tl.load(cut_token + row)
    q_tokens += row * width
    q_probs += row * width
    group = tl.arange(0, G)
    score = 3e38
    leader = NOBODY
    p_score = 3e38
    p_leader = NOBODY
    begin = part * per_part
    for start in range(begin, tl.minimum(begin + per_part, vocab), G * E):
        values, tokens = load_tile(base, start, vocab, G, E, EVEN)
        if CUTS:
            values = tl.where(above_cut(values, tokens, least, last), values, float("-inf"))
        flags, found = contestants(tl.max(values, axis=1), start, f0, f1, c, reference, score, E)
        if found > _FEW:
            for some_start in range(start, start + G * E, CHUNK):
                few = some_start + tl.arange(0, CHUNK)
                some = tl.load(base + few, mask=few < vocab, other=float("-inf")).to(tl.float32)
                if CUTS:
                    some = tl.where(above_cut(some, few, least, last), some, float("-inf"))
                score, leader, p_score, p_leader = contest_left(
                    some, few, k0, k1, c, reference, total, q_tokens, q_probs, places, score, leader, p_score, p_leader
                )
        else:
            for _ in range(0, found):
                first = tl.min(tl.where(flags, group, G))
                flags = flags & (group != first)
                few = start + first * E + tl.arange(0, E)
                some = tl.load(base + few, mask=few < vocab, other=float("-inf")).to(tl.float32)
                if CUTS:
                    some = tl.where(above_cut(some, few, least, last), some, float("-inf"))
                score, leader, p_score, p_leader = contest_left(
                    some, few, k0, k1, c, reference, total, q_tokens, q_probs, places, score, leader, p_score, p_leader
                )
    at = row * parts + part
    tl.store(floats + at * 6 + 4, score)
    tl.store(floats + at * 6 + 5, p_score)
    tl.store(tokens_out + at * 2, leader)
    tl.store(tokens_out + at * 2 + 1, p_leader)
