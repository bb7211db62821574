"""Verification in plain torch, by sorting whole rows and writing down whole distributions.

The formulas are `outrider.speculation`'s: distributions of `sampling`, rules of `coupled` and `rejection`. Of equal
logits the lower token goes first.

Shapes: n rows, V vocabulary, R requests, w width of q.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outrider_kernels import counter_noise
from outrider_kernels.verification.arguments import Drafted, Verified, VerifyRows

__all__ = ["ACCEPT", "FINAL", "choose", "token_probs", "verify"]

ACCEPT, FINAL = 1, 2
"""The rejection rule's streams of a slot, in the order of `outrider.speculation.noise.Stream`."""


def token_probs(logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor) -> Tensor:
    """fp32 [n, V]: softmax(logits / T), then top-k, nucleus (a share of what top-k kept), min-p, renormalised.

    Greedy rows come out at T = 1, uncut.
    """
    vocab = logits.shape[-1]
    hot = (temperature > 0)[:, None]
    probs = torch.softmax(logits.float() / torch.where(hot, temperature[:, None], 1.0), dim=-1)
    order = logits.float().sort(dim=-1, descending=True, stable=True).indices
    ordered = probs.gather(1, order).double()
    ranks = torch.arange(vocab, device=logits.device)
    kept_ranks = torch.where(top_k > 0, top_k, vocab)[:, None]
    ordered = ordered.masked_fill((ranks >= kept_ranks) & hot, 0.0)
    limit = torch.where(top_p < 1, top_p.clamp(min=1e-9), torch.inf)[:, None].double()
    limit = torch.where(kept_ranks < vocab, limit * ordered.sum(dim=-1, keepdim=True), limit)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill((before >= limit) & hot, 0.0)
    kept = torch.zeros_like(probs).scatter_(1, order, ordered.float())
    least = probs.amax(dim=-1, keepdim=True) * min_p[:, None]
    kept = kept.masked_fill((probs < least) & hot, 0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


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
    """argmin E/p per row, int64 [n]; the argmax of greedy rows. random, cuts: whether a row needs noise, is cut."""
    del cuts
    greedy = logits.float().argmax(dim=-1)
    if not random:
        return greedy
    probs = token_probs(logits, temperature, top_p, top_k, min_p)
    keys = counter_noise.row_keys(seeds, choices, positions).to(logits.device)
    raced = (counter_noise.exponential(keys, logits.shape[-1]) / probs).argmin(dim=-1)
    return torch.where(temperature > 0, raced, greedy)


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
    """Each request's accepted length and last token; query_start int32 [R+1], request r owns rows start[r]…start[r+1].

    random, cuts, rejects: whether any row needs noise, has a cut, or is under the rejection rule.
    """
    count = len(logits)
    starts, ends = query_start[:-1].long(), query_start[1:].long()
    if count == 0:
        empty = torch.zeros(len(starts), dtype=torch.int32, device=logits.device)
        none = torch.full((len(starts),), -1, device=logits.device)
        return Verified(empty, none, rows.seeds.clone(), rows.temperature.clone())
    shape = (rows.temperature, rows.top_p, rows.top_k, rows.min_p)
    chosen = choose(logits, *shape, rows.seeds, rows.choices, rows.positions, random=random, cuts=cuts)
    rejecting = (rows.rounds >= 0) & (rows.temperature > 0)
    fits = chosen == drafted.tokens
    probs = token_probs(logits, *shape) if rejects else None
    if probs is not None:
        fits = torch.where(rejecting, _fits(probs, rows, drafted), fits)
    accepted = _leading(fits, starts, ends)
    at = (starts + accepted).clamp(max=count - 1)
    if probs is not None:
        final = torch.where(rejecting[at], _last(probs, rows, drafted, at), chosen[at])
        chosen = torch.where(rejecting, drafted.tokens, chosen)
        owners = torch.where(ends > starts, at, count)  # requests without rows write beyond the last
        chosen = torch.cat([chosen, chosen[:1]]).index_copy(0, owners, final)[:count]
    last = torch.where(ends > starts, chosen[at], -1)
    chosen = torch.where(rows.request >= 0, chosen, -1)
    logprobs = torch.log_softmax(logits.float(), dim=-1).gather(1, chosen.clamp(min=0)[:, None]).squeeze(1)
    return Verified(accepted.int(), last, chosen, torch.where(chosen >= 0, logprobs, 0.0))


def _stream_keys(rows: VerifyRows, stream: int) -> Tensor:
    keys = counter_noise.row_keys(rows.seeds, rows.choices, rows.rounds, 4 * rows.slot.long() + stream)
    return keys.to(rows.seeds.device)


def _fits(probs: Tensor, rows: VerifyRows, drafted: Drafted) -> Tensor:
    """u·q(x) < p(x) of each row's drafted token x, bool [n]."""
    assert drafted.q_tokens is not None
    assert drafted.q_probs is not None
    u = counter_noise.uniform(_stream_keys(rows, ACCEPT), 1).squeeze(1)
    q = drafted.q_probs.masked_fill(drafted.q_tokens != drafted.tokens[:, None], 0.0).sum(dim=-1)
    chance = probs.gather(1, drafted.tokens.clamp(min=0)[:, None]).squeeze(1)
    return (u * q < chance) & (drafted.tokens >= 0)


def _leading(fits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """How many rows of each request fit before the first that does not, int64 [R]; its last row never does."""
    count = len(fits)
    refused = torch.where(fits, count, torch.arange(count, device=fits.device))
    following = refused.flip(0).cummin(dim=0).values.flip(0)
    first = following[starts.clamp(max=count - 1)]
    return (torch.minimum(first, ends - 1) - starts).clamp(min=0)


def _last(probs: Tensor, rows: VerifyRows, drafted: Drafted, at: Tensor) -> Tensor:
    """What ends a round at rows `at` int64 [R]: by race over max(p − q, 0), or over p where nothing is left of it."""
    assert drafted.q_tokens is not None
    assert drafted.q_probs is not None
    p = probs[at]
    left = p.scatter_add(1, drafted.q_tokens[at], -drafted.q_probs[at]).clamp_(min=0.0)
    left = torch.where(left.sum(dim=-1, keepdim=True) > 0, left, p)
    noise = counter_noise.exponential(_stream_keys(rows, FINAL)[at], probs.shape[-1])
    return (noise / left).argmin(dim=-1)
