"""Block drawing on a GPU: per slot one pass over V for all rows, and at the end one program per row and slot.

The pass (`stream_kernel`) reads a tile of W2 once for 64 rows, multiplies it with their tokens' embeddings, adds base
logits and noise in registers, and joins each row's best to its cell by an atomic maximum of (score, −token), which is
the same in any order; the next slot reads its tokens there. Where rows draw from their best tokens it also writes the
largest logit of every 16 tokens; `narrow_kernel` finds the w best of those groups, which hold the w best tokens, and
computes their logits anew. Why they do: of a token in another group, w groups have a better first, each by a token.

Shapes: R rows, γ block size, V vocabulary, r Markov rank, d hidden size, w width, P programs per row. Cells [γ, R].
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from outrider_kernels.counter_noise.triton import EXACT, exponential_noise, row_key, stream_key
from outrider_kernels.dispatch import interpreted
from outrider_kernels.draft_sampling.rows import DrawRows, Sampled, SequentialHead
from outrider_kernels.triton_parts.product import product
from outrider_kernels.triton_parts.race import SLACK, joined, race_score, raced

__all__ = ["draw_blocks", "finish_kernel", "narrow_kernel", "stream_kernel"]

GROUP: Final = 16
_DRAFT_STREAM: Final = tl.constexpr(0)
_LOG2E: Final = tl.constexpr(1.4426950408889634)
_PROGRAMS_PER_PROCESSOR: Final = 2


@triton.jit
def _ordered(x):
    """int32 in the order of fp32 numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _cell(score, token):
    """int64, the larger the better: the score, and among equals the lower token."""
    return (_ordered(score).to(tl.int64) << 32) | (2147483647 - token.to(tl.int64))


@triton.jit
def _token(cell):
    return 2147483647 - (cell & 0xFFFFFFFF)


@triton.jit
def _previous(anchors, cells, row, inside, slot, rows_count):
    """The token before the slot: the anchor, or what was drawn last."""
    drawn = row * 0 + slot > 0
    found = tl.load(tl.where(drawn, cells + (slot - 1) * rows_count + row, anchors + row), mask=inside, other=0)
    return tl.where(drawn, _token(found), found)


@triton.jit
def _weights(matrix, rows, inside, lanes, RANK: tl.constexpr):
    """Columns `lanes` of some rows of W1 or W2."""
    at = rows.to(tl.int64)[:, None] * RANK + lanes[None, :]
    return tl.load(matrix + at, mask=inside[:, None] & (lanes < RANK)[None, :], other=0.0)


@triton.jit
def _has_cut(top_p, top_k, min_p):
    return (top_p < 1.0) | (top_k > 0) | (min_p > 0.0)


@triton.jit(do_not_specialize=["slot", "rows_count", "loops"])
def stream_kernel(
    base, w1, w2, anchors, cells, positions,
    temperatures, seeds, choices, top_ps, top_ks, min_ps, rounds,
    part_top, part_sum, groups,
    base_r, base_t, slot, rows_count, vocab, loops, slack,
    RANK: tl.constexpr, RANDOM: tl.constexpr, TOPS: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_V: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = row < rows_count
    if RANK:
        previous = _previous(anchors, cells, row, inside, slot, rows_count)
        lanes = tl.arange(0, BLOCK_K)
        embedded = _weights(w1, previous, inside, lanes, RANK)  # all of it, where a tile of W2 is read whole
    temperature = tl.load(temperatures + row, mask=inside, other=0.0)
    hot = temperature > 0.0
    warmth = tl.where(hot, _LOG2E / tl.where(hot, temperature, 1.0), 1.0)  # to the base 2, unless greedy
    if RANDOM:
        seed = tl.load(seeds + row, mask=inside, other=0)
        choice = tl.load(choices + row, mask=inside, other=0)
        k0, k1 = row_key(seed, choice, tl.load(positions + row, mask=inside, other=0) + slot + 1)
        racing = hot
        if TOPS:
            top_p, top_k = tl.load(top_ps + row, mask=inside, other=1.0), tl.load(top_ks + row, mask=inside, other=0)
            cut = _has_cut(top_p, top_k, tl.load(min_ps + row, mask=inside, other=0.0))
            racing = hot & ~cut & (tl.load(rounds + row, mask=inside, other=0) < 0)
        noisy = tl.max(racing.to(tl.int32), 0) > 0

    best = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    logit = best
    token = tl.zeros((BLOCK_R,), tl.int32)
    top = tl.full((BLOCK_R,), -1.0e38, tl.float32)  # finite: a tile without any token adds nothing
    total = tl.zeros((BLOCK_R,), tl.float32)
    base_at = row * base_r + slot * base_t
    for turn in tl.range(0, loops):
        start = (tl.program_id(1) * loops + turn) * BLOCK_V
        ids = start + tl.arange(0, BLOCK_V)
        known = ids < vocab
        given = tl.load(
            base + base_at[:, None] + ids[None, :], mask=inside[:, None] & known[None, :], other=float("-inf")
        )
        logits = given.to(tl.float32)
        if RANK:
            bias = product(
                embedded,
                tl.trans(_weights(w2, ids, known, lanes, RANK)),
                tl.zeros((BLOCK_R, BLOCK_V), tl.float32),
                WIDEN,
            )
            for first in tl.range(BLOCK_K, RANK, BLOCK_K):
                weights = _weights(w2, ids, known, first + lanes, RANK)
                bias = product(_weights(w1, previous, inside, first + lanes, RANK), tl.trans(weights), bias, WIDEN)
            logits += bias
        if TOPS:
            of_group = tl.max(tl.reshape(logits, (BLOCK_R, BLOCK_V // GROUP_V, GROUP_V)), 2)
            number = start // GROUP_V + tl.arange(0, BLOCK_V // GROUP_V)
            count = tl.cdiv(vocab, GROUP_V)
            at = row[:, None] * count + number[None, :]
            tl.store(groups + at, of_group, mask=inside[:, None] & (number < count)[None, :])
        logits *= warmth[:, None]
        if TOPS:
            scale = tl.where(hot, 1.0, _LOG2E)  # of a greedy row the distribution is that of temperature 1
            new = tl.maximum(top, tl.max(logits, 1) * scale)
            total = total * tl.exp2(top - new) + tl.sum(tl.exp2(logits * scale[:, None] - new[:, None]), 1)
            top = new
        if RANDOM:
            if TOPS:
                if noisy:
                    best, token, logit = raced(logits, racing, k0, k1, ids, best, token, logit, slack, WIDEN)
                else:
                    best, token = joined(logits, ids, best, token)
                    logit = best
            else:
                best, token, logit = raced(logits, racing, k0, k1, ids, best, token, logit, slack, WIDEN)
        else:
            best, token = joined(logits, ids, best, token)
    if RANDOM:
        best = race_score(logit, racing, k0, k1, token, WIDEN)
    tl.atomic_max(cells + slot * rows_count + row, _cell(best + 0.0, token), mask=inside, sem="relaxed")
    if TOPS:
        at = row * tl.num_programs(1) + tl.program_id(1)
        tl.store(part_top + at, top, mask=inside)
        tl.store(part_sum + at, total, mask=inside)


@triton.jit(do_not_specialize=["rows_count"])
def finish_kernel(
    hidden, w1, confidence, bias, anchors, cells, tokens, scores, hidden_r, hidden_t, rows_count,
    WIDTH: tl.constexpr, RANK: tl.constexpr, WITH_MARKOV: tl.constexpr, GAMMA: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1)
    summed = tl.zeros((BLOCK_D,), tl.float32)
    for first in tl.range(0, WIDTH, BLOCK_D):
        lanes = first + tl.arange(0, BLOCK_D)
        state = tl.load(hidden + row * hidden_r + slot * hidden_t + lanes, mask=lanes < WIDTH, other=0.0)
        weight = tl.load(confidence + lanes, mask=lanes < WIDTH, other=0.0)
        summed += state.to(tl.float32) * weight.to(tl.float32)
    logit = tl.sum(summed, 0)
    if WITH_MARKOV:
        previous = _previous(anchors, cells, row, row >= 0, slot, rows_count)
        lanes = tl.arange(0, BLOCK_K)
        embedded = tl.load(w1 + previous * RANK + lanes, mask=lanes < RANK, other=0.0)
        weight = tl.load(confidence + WIDTH + lanes, mask=lanes < RANK, other=0.0)
        logit += tl.sum(embedded.to(tl.float32) * weight.to(tl.float32), 0)
    logit += tl.load(bias)
    tl.store(scores + row * GAMMA + slot, tl.where(logit == logit, logit, float("-inf")))
    tl.store(tokens + row * GAMMA + slot, _token(tl.load(cells + slot * rows_count + row)))


@triton.jit
def _best_groups(groups, chosen, count, WANTED: tl.constexpr, BLOCK_G: tl.constexpr):
    """Write the numbers of the WANTED largest of `count` values, lower numbers first among equals, in any order."""
    lanes = tl.arange(0, BLOCK_G)
    there = lanes < count
    keys = _ordered(tl.load(groups + lanes, mask=there, other=float("-inf")))
    low, high = tl.full((), -2147483648, tl.int64), tl.full((), 2147483647, tl.int64)
    for _ in tl.range(0, 32):  # the largest bound that WANTED values reach
        middle = low + ((high - low + 1) >> 1)
        reached = tl.sum((there & (keys >= middle.to(tl.int32))).to(tl.int32), 0) >= WANTED
        low, high = tl.where(reached, middle, low), tl.where(reached, high, middle - 1)
    bound = low.to(tl.int32)
    above, level = there & (keys > bound), there & (keys == bound)
    spare = WANTED - tl.sum(above.to(tl.int32), 0)
    taken = above | (level & (tl.cumsum(level.to(tl.int32), 0) <= spare))
    place = tl.cumsum(taken.to(tl.int32), 0) - 1
    tl.store(chosen + place, lanes, mask=taken)


@triton.jit(do_not_specialize=["slot", "rows_count", "parts"])
def narrow_kernel(
    base, w1, w2, anchors, cells, positions,
    temperatures, seeds, choices, top_ps, top_ks, min_ps, rounds,
    part_top, part_sum, groups, chosen, found, q_tokens, q_probs,
    base_r, base_t, slot, rows_count, vocab, parts,
    RANK: tl.constexpr, GAMMA: tl.constexpr, WANTED: tl.constexpr, GROUPS: tl.constexpr, GROUP_V: tl.constexpr,
    CUTS: tl.constexpr, REJECTS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    number = tl.load(rounds + row)
    top_p, top_k, min_p = tl.load(top_ps + row), tl.load(top_ks + row), tl.load(min_ps + row)
    under = number >= 0
    cut = _has_cut(top_p, top_k, min_p) & (temperature > 0.0)
    if not REJECTS:
        under = under & (number < 0)
    if not CUTS:
        cut = cut & (temperature <= 0.0)
    if under | cut:
        count = tl.cdiv(vocab, GROUP_V)
        _best_groups(groups + row * count, chosen + row * GROUPS, count, GROUPS, BLOCK_G)
        tl.debug_barrier()

        many: tl.constexpr = BLOCK_W * GROUP_V
        if RANK:
            previous = _previous(anchors, cells, row, row >= 0, slot, rows_count)
            deep = tl.arange(0, BLOCK_K)
            embedded = tl.load(w1 + previous * RANK + deep, mask=deep < RANK, other=0.0).to(tl.float32)
        for first in tl.range(0, many, CHUNK):
            lanes = first + tl.arange(0, CHUNK)
            group = tl.load(chosen + row * GROUPS + lanes // GROUP_V, mask=lanes < GROUPS * GROUP_V, other=0)
            ids = group.to(tl.int64) * GROUP_V + lanes % GROUP_V
            known = (lanes < GROUPS * GROUP_V) & (ids < vocab)
            logits = tl.load(base + row * base_r + slot * base_t + ids, mask=known, other=0.0).to(tl.float32)
            if RANK:
                weights = tl.load(
                    w2 + ids[:, None] * RANK + deep[None, :], mask=known[:, None] & (deep < RANK)[None, :], other=0.0
                )
                logits += tl.sum(weights.to(tl.float32) * embedded[None, :], 1)
            keys = _cell(logits, ids)
            tl.store(found + row * many + lanes, tl.where(known, keys, -9223372036854775808))
        tl.debug_barrier()

        keys = tl.sort(tl.load(found + row * many + tl.arange(0, many)), descending=True)
        places = tl.arange(0, BLOCK_W)
        first_row = (tl.arange(0, GROUP_V) == 0)[:, None]
        keys = tl.sum(tl.where(first_row, tl.reshape(keys, (GROUP_V, BLOCK_W)), 0), 0)
        ids = _token(keys)
        bits = (keys >> 32).to(tl.int32)
        logits = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)

        lanes = tl.arange(0, BLOCK_P)
        top = tl.load(part_top + row * parts + lanes, mask=lanes < parts, other=-1.0e38)
        total = tl.load(part_sum + row * parts + lanes, mask=lanes < parts, other=0.0)
        most = tl.max(top, 0)
        mass = tl.sum(total * tl.exp2(top - most), 0)
        warmth = _LOG2E / tl.where(temperature > 0.0, temperature, 1.0)
        kept = places < WANTED
        probs = tl.where(kept, tl.exp2(tl.where(kept, logits, 0.0) * warmth - most) / mass, 0.0)
        if CUTS:
            probs = tl.where((places >= top_k) & (top_k > 0), 0.0, probs)
            limit = tl.where(top_p < 1.0, tl.maximum(top_p, 1e-9), float("inf"))
            limit = tl.where(top_k > 0, limit * tl.sum(probs, 0), limit)  # a share of what top-k kept
            probs = tl.where(tl.cumsum(probs, 0) - probs >= limit, 0.0, probs)
            probs = tl.where(probs < tl.max(probs, 0) * min_p, 0.0, probs)
        probs = probs / tl.sum(probs, 0)

        seed, choice = tl.load(seeds + row), tl.load(choices + row)
        race_0, race_1 = row_key(seed, choice, tl.load(positions + row) + slot + 1)
        draw_0, draw_1 = stream_key(seed, choice, number, slot.to(tl.int64), _DRAFT_STREAM)
        k0, k1 = tl.where(under, draw_0, race_0), tl.where(under, draw_1, race_1)
        noise = exponential_noise(k0, k1, tl.where(under, places, ids.to(tl.int32)))
        times = tl.where(probs > 0.0, tl.div_rn(noise, tl.where(probs > 0.0, probs, 1.0)), float("inf"))
        place = tl.min(tl.where(times == tl.min(times, 0), places, BLOCK_W - 1), 0)
        drawn = tl.sum(tl.where(places == place, ids, 0), 0)
        tl.store(cells + slot * rows_count + row, 2147483647 - tl.minimum(tl.maximum(drawn, 0), vocab - 1))
        if REJECTS:
            at = (row * GAMMA + slot) * WANTED + places
            told = kept & (number + places * 0 >= 0)  # the interpreter takes no mask that a scalar was part of
            tl.store(q_tokens + at, ids, mask=told)
            tl.store(q_probs + at, probs, mask=told)


def draw_blocks(
    hidden: Tensor,
    base: Tensor,
    anchors: Tensor,
    positions: Tensor,
    head: SequentialHead,
    rows: DrawRows,
    *,
    width: int = 0,
) -> Sampled:
    """As `reference.draw_blocks`."""
    count, gamma, vocab = base.shape
    device, states = base.device, hidden.shape[2]
    rank = 0 if head.w1 is None else head.w1.shape[1]
    tops = width > 0
    tokens = torch.empty((count, gamma), dtype=torch.int64, device=device)
    scores = torch.empty((count, gamma), dtype=torch.float32, device=device)
    shape = (count, gamma, width if rows.rejects else 0)
    q_tokens = torch.zeros(shape, dtype=torch.int64, device=device)
    q_probs = torch.zeros(shape, dtype=torch.float32, device=device)
    sampled = Sampled(tokens, scores, q_tokens, q_probs) if rows.rejects else Sampled(tokens, scores)
    if not count:
        return sampled
    exact = head.w2 is not None and head.w2.dtype == torch.float32
    block_r, block_v, warps, stages = _blocks(count, exact=exact)
    block_k = max(16, triton.next_power_of_2(rank))
    tiles = triton.cdiv(vocab, block_v)
    row_tiles = triton.cdiv(count, block_r)
    loops = triton.cdiv(tiles, max(1, _programs(device) // row_tiles))
    parts = triton.cdiv(tiles, loops)
    block_p = triton.next_power_of_2(parts)
    sums = torch.empty((2, count, parts if tops else 0), dtype=torch.float32, device=device)
    cells = torch.full((gamma, count), -(1 << 63), dtype=torch.int64, device=device)
    of_groups = triton.cdiv(vocab, GROUP)
    group_max = torch.empty((count, of_groups if tops else 0), dtype=torch.float32, device=device)
    wanted_groups = min(width, of_groups)
    block_w = max(2, triton.next_power_of_2(width))
    chosen = torch.empty((count, wanted_groups), dtype=torch.int32, device=device)
    candidates = torch.empty((count, block_w * GROUP if tops else 0), dtype=torch.int64, device=device)
    w1, w2 = (base, base) if head.w1 is None or head.w2 is None else (head.w1, head.w2)
    bias = head.confidence_bias
    if not isinstance(bias, Tensor):
        bias = torch.full((), bias, dtype=torch.float32, device=device)
    how = (rows.temperature, rows.seeds, rows.choices, rows.top_p, rows.top_k, rows.min_p, rows.rounds)
    for slot in range(gamma):
        stream_kernel[(row_tiles, parts)](
            base, w1, w2, anchors, cells, positions, *how, sums[0], sums[1], group_max,
            base.stride(0), base.stride(1), slot, count, vocab, loops, SLACK,
            RANK=rank, RANDOM=rows.random, TOPS=tops, WIDEN=interpreted(),
            BLOCK_R=block_r, BLOCK_V=block_v, BLOCK_K=min(block_k, 32 if exact else 256), GROUP_V=GROUP,
            num_warps=warps, num_stages=stages, **EXACT,
        )  # fmt: skip
        if tops:
            narrow_kernel[(count,)](
                base, w1, w2, anchors, cells, positions, *how, sums[0], sums[1], group_max,
                chosen, candidates, q_tokens, q_probs, base.stride(0), base.stride(1), slot, count, vocab, parts,
                RANK=rank, GAMMA=gamma, WANTED=width, GROUPS=wanted_groups, GROUP_V=GROUP,
                CUTS=rows.cuts, REJECTS=rows.rejects,
                BLOCK_P=block_p, BLOCK_K=block_k, BLOCK_G=triton.next_power_of_2(of_groups), BLOCK_W=block_w,
                CHUNK=min(64, block_w * GROUP), num_warps=8, **EXACT,
            )  # fmt: skip
    finish_kernel[(count, gamma)](
        hidden, w1, head.confidence, bias, anchors, cells, tokens, scores,
        hidden.stride(0), hidden.stride(1), count,
        WIDTH=states, RANK=rank, WITH_MARKOV=len(head.confidence) > states, GAMMA=gamma,
        BLOCK_D=min(1024, triton.next_power_of_2(states)), BLOCK_K=block_k, num_warps=4,
    )  # fmt: skip
    return sampled


def _blocks(count: int, *, exact: bool) -> tuple[int, int, int, int]:
    """Rows and tokens of a tile, warps and stages of its pipeline."""
    if exact:
        return 16, 32, 4, 1  # no tensor cores multiply these exactly
    block_r = min(64, max(16, triton.next_power_of_2(count)))
    return block_r, 64, 4, 2 if block_r == 64 else 3  # two programs fit in a multiprocessor's memory


def _programs(device: torch.device) -> int:
    """How many programs a GPU runs at once; few where there is none, so that programs have several turns."""
    if device.type != "cuda":
        return 2
    return _PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count
