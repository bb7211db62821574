"""From depths to the flat batch that verifies them, on the device: nothing here waits for a value.

Shapes: R requests (the tail may be empty), B flat tokens and N logit rows (their tails may be padding), γ block size, D
drafted requests, w width of q, M blocks of a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.engine.attention import ragged_rows
from outrider.engine.batch import FlatBatch
from outrider_kernels.ragged_attention import RaggedRows
from outrider_kernels.verification import Drafted, VerifyRows

__all__ = ["DeviceBatch", "Drafts", "Members", "Sampling", "flat_batch", "from_spans", "runs", "verify_rows"]


@dataclass(frozen=True, slots=True)
class Members:
    """Who takes part in a step, all [R]. context int32: positions computed before. fixed int32: tokens that are known,
    1 for a decoding request's anchor, as many as its chunk for a prompt, 0 for nobody. `first` int64 is the first of
    them, the others follow `offset` int64 of `tokens` int64 [T]. told int32: of the fixed ones the last so many have
    their logits looked at, 0 or 1. drafted int64: the row of the request's draft, −1 without. lane int64: its row of
    the block tables.
    """

    tokens: Tensor
    first: Tensor
    context: Tensor
    fixed: Tensor
    offset: Tensor
    told: Tensor
    drafted: Tensor
    lane: Tensor


@dataclass(frozen=True, slots=True)
class Drafts:
    """Blocks: tokens int64 [D, γ] and, where some are under the rejection rule, q_tokens int64 and q_probs fp32
    [D, γ, w]; depths int32 [R] is how much of its block each request verifies.
    """

    tokens: Tensor
    depths: Tensor
    q_tokens: Tensor | None = None
    q_probs: Tensor | None = None


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """token_ids, positions, slots int64 [B] (slot −1: padding); logit_rows int64 [N], of padding 0."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    rows: RaggedRows
    logit_rows: Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How each request samples, all [R]; rounds int64 numbers the draws of the rejection rule, −1 for the coupled."""

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    seeds: Tensor
    choices: Tensor
    rounds: Tensor


def from_spans(batch: FlatBatch, block_size: int) -> DeviceBatch:
    """A batch that the host laid out, without padding."""
    slots = torch.cat([span.slots[span.start : span.start + span.length] for span in batch.spans])
    rows = batch.token_ids[:0] if batch.logit_rows is None else batch.logit_rows
    return DeviceBatch(batch.token_ids, batch.positions, slots, ragged_rows(batch.spans, block_size), rows)


def runs(lengths: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Runs of `lengths` int32 [R], one after another: where each starts, int32 [R + 1], and of `size` places whose it
    is (int64), which of its run (int32), and whether it is anybody's.
    """
    starts = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    places = torch.arange(size, dtype=torch.int32, device=lengths.device)
    owner = torch.searchsorted(starts[1:], places, right=True).clamp(max=len(lengths) - 1)
    return starts, owner, places - starts[owner], places < starts[-1]


def flat_batch(
    members: Members, drafts: Drafts, tables: Tensor, *, tokens: int, block_size: int, longest_query: int
) -> tuple[DeviceBatch, Tensor]:
    """The flat batch of `tokens` places without its logit rows, and how many tokens each request has, int32 [R].

    tables: int32 [R, M], of the members.
    """
    lengths = members.fixed + drafts.depths
    starts, owner, place, real = runs(lengths, tokens)
    fixed = members.fixed[owner]
    known = members.tokens[(members.offset[owner] + place).clamp(max=len(members.tokens) - 1)]
    slot_of_block = (place - fixed).clamp(0, drafts.tokens.shape[1] - 1).long()
    drafted = drafts.tokens[members.drafted[owner].clamp(min=0), slot_of_block]
    known = torch.where(place == 0, members.first[owner], known)
    token_ids = torch.where(real, torch.where(place < fixed, known, drafted), 0)
    positions = torch.where(real, (members.context[owner] + place).long(), 0)
    blocks = tables[owner, (positions // block_size).clamp(max=tables.shape[1] - 1)].long()
    slots = torch.where(real, blocks * block_size + positions % block_size, -1)
    rows = RaggedRows(
        query_start=starts,
        context=members.context,
        blocks=tables,
        block_size=block_size,
        longest_query=longest_query,
        longest_context=tables.shape[1] * block_size,
    )
    return DeviceBatch(token_ids, positions, slots, rows, token_ids[:0]), lengths


def verify_rows(
    members: Members, drafts: Drafts, batch: DeviceBatch, lengths: Tensor, sampling: Sampling, *, rows: int
) -> tuple[Tensor, VerifyRows, Drafted, Tensor]:
    """Of `rows` places for logits: the flat token each belongs to, how it samples, what it judges, and the starts."""
    counts = members.told + drafts.depths
    starts, owner, place, real = runs(counts, rows)
    first = lengths[owner] - counts[owner] + place
    logit_rows = torch.where(real, (batch.rows.query_start[owner] + first).long(), 0)
    judges = real & (place < drafts.depths[owner])
    slot = place.clamp(0, drafts.tokens.shape[1] - 1).long()
    at = members.drafted[owner].clamp(min=0)
    q_tokens = q_probs = None
    if drafts.q_tokens is not None and drafts.q_probs is not None:
        q_tokens = drafts.q_tokens[at, slot]
        q_probs = torch.where(judges[:, None], drafts.q_probs[at, slot], 0.0)
    drafted = Drafted(torch.where(judges, drafts.tokens[at, slot], -1), q_tokens, q_probs)
    verified = VerifyRows(
        request=torch.where(real, owner, -1).int(),
        slot=place.int(),
        temperature=sampling.temperature[owner],
        top_p=sampling.top_p[owner],
        top_k=sampling.top_k[owner],
        min_p=sampling.min_p[owner],
        seeds=sampling.seeds[owner],
        choices=sampling.choices[owner],
        positions=(members.context[owner] + first + 1).long(),
        rounds=sampling.rounds[owner],
    )
    return logit_rows, verified, drafted, starts
