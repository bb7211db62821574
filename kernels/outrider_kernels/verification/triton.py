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

from typing import Any, Final

import torch
import triton
from torch import Tensor

from outrider_kernels.counter_noise.triton import EXACT
from outrider_kernels.triton_parts.cuts import cut_kernel
from outrider_kernels.triton_parts.passes import race_kernel, scan_kernel
from outrider_kernels.triton_parts.rounds import accept_kernel, judge_kernel, merge_kernel, settle_kernel
from outrider_kernels.verification.arguments import Drafted, Verified, VerifyRows

__all__ = ["Passes", "choose", "verify"]

_TILE_BYTES: Final = 8192
"""Of 128 threads: four loads of 16 bytes each on their way. The scan takes 70 to 113 registers then; of twice as many
fp32, 161.
"""
_LEAST_TILE: Final = 256
_CHUNK: Final = 512
"""Tokens whose noise is computed at once: all of a tile's took 168 registers, and more than 240 in the residual."""
_PROGRAMS: Final = 1056
"""Eight for each multiprocessor of an H200. Not many more: each starts without a leader, so that all the noise of its
first tile is computed, at the price of four other tiles.
"""
_CUT_BLOCK: Final = 2048
_CUT_ROOM: Final = 4096
"""Logits of a row read at once, and how many of the greatest are kept together."""
_EMPTY_BITS: Final = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}


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
    return Passes(logits, rows, Drafted(seeds), False, random, cuts and random, False).chosen


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
    passes = Passes(logits, rows, drafted, True, random, cuts and random, rejects and random, query_start)
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


class Passes:
    """All passes but the last over one batch, and what they leave: `chosen`, `logprobs`, `accepted` of rejections.

    cut_at fp32 [n, 2]: of rows that are cut, the least logit kept and the weight of all that is; cut_token int32 [n]:
    the last token kept of those equal to it.
    """

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
        self.cut_at = torch.empty(count if cuts else 1, 2, dtype=torch.float32, device=device)
        self.cut_token = torch.empty(count if cuts else 1, dtype=torch.int32, device=device)
        if count == 0:
            return
        group = 16 // logits.element_size()
        tile = min(_TILE_BYTES // logits.element_size(), max(_LEAST_TILE, triton.next_power_of_2(vocab)))
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
        if cuts:
            least = max(_LEAST_TILE, triton.next_power_of_2(vocab))
            block, room = min(_CUT_BLOCK, least), min(_CUT_ROOM, least)
            scratch = torch.empty(count, room, dtype=torch.float32, device=device)
            cut_kernel[(count,)](
                *row,
                vocab,
                rows.request,
                *shape,
                stats,
                scratch,
                self.cut_at,
                self.cut_token,
                HAS_REQUEST=has_request,
                SHIFT=_EMPTY_BITS[logits.dtype],
                BLOCK=block,
                ROOM=room,
                num_warps=8,
            )
        ends = torch.zeros(count if rejects else 1, dtype=torch.int32, device=device)
        q_tokens, q_probs = (self.cut_token, self.cut_at) if not rejects else (drafted.q_tokens, drafted.q_probs)
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
                self.cut_at,
                self.cut_token,
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
            self.cut_at,
            self.cut_token,
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
    per_part = triton.cdiv(tiles, min(tiles, triton.cdiv(_PROGRAMS, count)))
    return triton.cdiv(tiles, per_part), per_part * tile
