"""Verification's passes over the logits, and the order of its kernels.

    scan     all rows: maximum and sums of exponentials; argmax of greedy rows; race of coupled rows that are not cut
    merge    the parts of a row together; their token and its log-probability
    cut      rows that are cut: where
    judge    rejection: accepted lengths, and the row each round ends on
    race     rows that are cut, and those that end a rejection: the race over what is known by now
    settle   the parts of such a row together
    accept   coupled: accepted lengths; every request's last token

Between them, per row and part of the vocabulary: six floats and two tokens. Splitting a row is a matter of how many
rows there are, as is everything a launch depends on: it can be captured in a graph.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from outrider_kernels.counter_noise.triton import EXACT, row_key, stream_key
from outrider_kernels.triton_parts.cuts import cut_kernel
from outrider_kernels.triton_parts.race import contest, contest_left, contestants, folded
from outrider_kernels.triton_parts.rounds import accept_kernel, again, judge_kernel, merge_kernel, settle_kernel
from outrider_kernels.triton_parts.rows import LOG2E, NOBODY, above_cut, is_cut, load_tile
from outrider_kernels.verification.arguments import Drafted, Verified, VerifyRows

__all__ = ["choose", "verify"]

_TILE, _LEAST_TILE = 4096, 256
_CHUNK = 512
"""Registers: the noise of a whole tile at once takes 168 of a thread, and more than half of the residual's."""
_FEW: tl.constexpr = tl.constexpr(12)
"""Groups of a tile that are computed one by one; more, and the whole tile is."""
_PROGRAMS = 1024
"""As many as an H200 runs at once: each part of a row has its own first tile, all of whose noise is computed."""
_CUT_BLOCK = 4096
_EMPTY_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}


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
        if RANDOM:
            if tempered:
                warm, warm_sums = _lanes_add(values, warm, warm_sums, c)
            if races:
                flags, found = contestants(greatest, tokens, f0, f1, c, reference, score)
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
        if heat <= 0:
            top = tl.max(greatest)
            if top > reference:
                reference = top
                leader = tl.min(tl.where(values == top, tokens, NOBODY))
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
        flags, found = contestants(tl.max(values, axis=1), tokens, f0, f1, c, reference, score)
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


def choose(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    choices: Tensor,
    positions: Tensor,
    *,
    random: bool,
    cuts: bool,
) -> Tensor:
    """As `reference.choose`."""
    rows = VerifyRows(seeds, seeds, temperature, top_p, top_k, min_p, seeds, choices, positions, seeds)
    return _Passes(logits, rows, Drafted(seeds), False, random, cuts and random, False).chosen


def verify(
    logits: Tensor,
    rows: VerifyRows,
    drafted: Drafted,
    query_start: Tensor,
    *,
    random: bool,
    cuts: bool,
    rejects: bool,
) -> Verified:
    """As `reference.verify`."""
    requests = len(query_start) - 1
    passes = _Passes(logits, rows, drafted, True, random, cuts and random, rejects and random, query_start)
    last = torch.empty(requests, dtype=torch.int64, device=logits.device)
    if requests:
        accept_kernel[(requests,)](
            query_start,
            rows.temperature,
            rows.rounds,
            drafted.tokens,
            passes.chosen,
            passes.accepted,
            last,
            REJECTS=passes.rejects,
            num_warps=1,
        )
    return Verified(passes.accepted, last, passes.chosen, passes.logprobs)


class _Passes:
    """All passes but the last over one batch, and what they leave: `chosen`, `logprobs`, `accepted` of rejections."""

    def __init__(
        self,
        logits: Tensor,
        rows: VerifyRows,
        drafted: Drafted,
        has_request: bool,
        random: bool,
        cuts: bool,
        rejects: bool,
        query_start: Tensor | None = None,
    ) -> None:
        count, vocab = logits.shape
        device = logits.device
        self.rejects = rejects
        self.chosen = torch.empty(count, dtype=torch.int64, device=device)
        self.logprobs = torch.empty(count if has_request else 0, dtype=torch.float32, device=device)
        requests = 0 if query_start is None else len(query_start) - 1
        self.accepted = torch.empty(requests, dtype=torch.int32, device=device)
        if count == 0:
            return
        group = 16 // logits.element_size()
        tile = min(_TILE, max(_LEAST_TILE, triton.next_power_of_2(vocab)))
        parts, per_part = _parts(count, vocab, tile)
        floats = torch.empty(count, parts, 6, dtype=torch.float32, device=device)
        tokens = torch.empty(count, parts, 2, dtype=torch.int32, device=device)
        stats = torch.empty(count, 4, dtype=torch.float32, device=device)
        shape = (rows.temperature, rows.top_p, rows.top_k, rows.min_p)
        keys = (rows.seeds, rows.choices, rows.positions, rows.rounds)
        read: dict[str, Any] = {
            "G": tile // group,
            "E": group,
            "CHUNK": min(_CHUNK, tile),
            "EVEN": vocab % group == 0,
            "HAS_REQUEST": has_request,
            "CUTS": cuts,
            "REJECTS": rejects,
            "num_warps": 4,
            **EXACT,
        }
        row = (logits, logits.stride(0))
        scan_kernel[(parts, count)](
            *row, vocab, rows.request, *shape, *keys, floats, tokens, per_part, parts, RANDOM=random, **read
        )
        folds: dict[str, Any] = {"PARTS": triton.next_power_of_2(parts), "HAS_REQUEST": has_request, "num_warps": 1}
        told = (floats, tokens, stats, self.chosen, self.logprobs, parts)
        merge_kernel[(count,)](
            *row,
            rows.request,
            rows.temperature,
            rows.rounds,
            drafted.tokens,
            *told,
            RANDOM=random,
            TEMPERED=cuts or rejects,
            REJECTS=rejects,
            **folds,
        )
        if not (cuts or rejects):
            return
        cut_at = torch.empty(count if cuts else 1, 2, dtype=torch.float32, device=device)
        cut_token = torch.empty(count if cuts else 1, dtype=torch.int32, device=device)
        if cuts:
            block = min(_CUT_BLOCK, tile)
            scratch = torch.empty(count, block, dtype=torch.float32, device=device)
            cut_kernel[(count,)](
                *row,
                vocab,
                rows.request,
                *shape,
                stats,
                scratch,
                cut_at,
                cut_token,
                HAS_REQUEST=has_request,
                SHIFT=_EMPTY_BITS[logits.dtype],
                BLOCK=block,
                num_warps=8,
            )
        ends = torch.zeros(count if rejects else 1, dtype=torch.int32, device=device)
        q_tokens, q_probs = (cut_token, cut_at) if not rejects else (drafted.q_tokens, drafted.q_probs)
        width = 0 if drafted.q_tokens is None else drafted.q_tokens.shape[1]
        if rejects and requests:
            judge_kernel[(requests,)](
                *row,
                vocab,
                query_start,
                rows.slot,
                *shape,
                rows.seeds,
                rows.choices,
                rows.rounds,
                drafted.tokens,
                q_tokens,
                q_probs,
                width,
                stats,
                cut_at,
                cut_token,
                self.accepted,
                ends,
                WIDTH=triton.next_power_of_2(width),
                CUTS=cuts,
                num_warps=1,
                **EXACT,
            )
        race_kernel[(parts, count)](
            *row,
            vocab,
            rows.request,
            rows.slot,
            *shape,
            *keys,
            ends,
            q_tokens,
            q_probs,
            width,
            stats,
            cut_at,
            cut_token,
            floats,
            tokens,
            per_part,
            parts,
            **read,
        )
        settle_kernel[(count,)](
            *row, vocab, rows.request, *shape, rows.rounds, ends, *told, CUTS=cuts, REJECTS=rejects, **folds
        )


def _parts(count: int, vocab: int, tile: int) -> tuple[int, int]:
    """How many parts each of `count` rows is read in, and logits of a part: whole tiles."""
    tiles = triton.cdiv(vocab, tile)
    per_part = triton.cdiv(tiles, max(1, min(tiles, _PROGRAMS // count)))
    return triton.cdiv(tiles, per_part), per_part * tile
