"""What either end of a link refuses: a message whose shapes, dtypes or values the other end cannot have meant."""

from __future__ import annotations

import torch
from torch import Tensor

from outrider.errors import LinkError
from outrider.link.messages import DraftBlock, DraftRound

__all__ = ["check_block", "check_round"]

_ROUNDING = 1e-4
"""How far the fp32 sum of a distribution may be from 1."""


def _check_columns(what: str, columns: tuple[Tensor, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    for column, dtype in zip(columns, dtypes, strict=True):
        if column.dim() != 1 or column.dtype != dtype or column.shape != columns[0].shape:
            raise LinkError(f"the {what} of a round are not equally long columns of their types")


def _check_keys(what: str, keys: list[int]) -> None:
    if len(set(keys)) != len(keys) or (keys and min(keys) < 0):
        raise LinkError(f"the {what} keys of a round are negative or repeated")


def check_round(message: DraftRound, *, vocab_size: int, row_size: int, context_tokens: int) -> None:
    """Raise `LinkError` unless every shape, dtype and value of a round is one the drafter can work on.

    row_size is what the drafter's welcome said.
    """
    ints, floats = torch.int64, torch.float32
    appends = (message.append_keys, message.append_starts, message.append_counts)
    _check_columns("appends", appends, (ints,) * 3)
    proposals = (message.propose_keys, message.anchors, message.positions, message.seeds, message.choices)
    _check_columns("proposals", (*proposals, message.temperature, message.top_p), (ints,) * 5 + (floats,) * 2)
    starts, counts = message.append_starts.tolist(), message.append_counts.tolist()
    _check_keys("appended", message.append_keys.tolist())
    _check_keys("proposing", message.propose_keys.tolist())
    rows = message.rows
    if not all(0 <= start < start + count <= context_tokens for start, count in zip(starts, counts, strict=True)):
        raise LinkError(f"an append of a round is empty or not within 0 to {context_tokens}")
    if rows.dim() != 2 or rows.shape[0] != sum(counts) or (counts and rows.shape[1] != row_size):
        raise LinkError(f"a round carries rows {list(rows.shape)}, not [{sum(counts)}, {row_size}]")
    if not rows.is_floating_point():
        raise LinkError("the rows of a round are not floating point")
    tokens = message.append_tokens
    if tokens.dtype != ints or tokens.shape != (sum(counts),):
        raise LinkError(f"a round carries tokens {list(tokens.shape)} for {sum(counts)} appended positions")
    for what, ids in (("appended token", tokens), ("anchor", message.anchors)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise LinkError(f"an {what} of a round is outside the vocabulary")
    if not all(0 <= position < context_tokens for position in message.positions.tolist()):
        raise LinkError(f"a position of a round is not within 0 to {context_tokens}")
    if not all(0.0 <= temperature < float("inf") for temperature in message.temperature.tolist()):
        raise LinkError("a temperature of a round is negative or not finite")
    if not all(0.0 <= top_p <= 1.0 for top_p in message.top_p.tolist()):
        raise LinkError("a top_p of a round is outside [0, 1]")
    _check_cuts(message)


def _check_cuts(message: DraftRound) -> None:
    for what, column, dtype in (("top_k", message.top_k, torch.int64), ("min_p", message.min_p, torch.float32)):
        if column.dtype != dtype or column.shape not in ((0,), message.propose_keys.shape):
            raise LinkError(f"the {what} of a round is neither empty nor one {dtype} for each proposal")
    if not all(top_k >= 0 for top_k in message.top_k.tolist()):
        raise LinkError("a top_k of a round is negative")
    if not all(0.0 <= min_p <= 1.0 for min_p in message.min_p.tolist()):
        raise LinkError("a min_p of a round is outside [0, 1]")
    rounds = message.rounds
    if rounds.dtype != torch.int64 or rounds.shape not in ((0,), message.propose_keys.shape):
        raise LinkError("the rounds of a round are neither empty nor one int64 for each proposal")
    if len(rounds) and (int(rounds.min()) < -1 or bool(((rounds >= 0) & (message.temperature <= 0)).any())):
        raise LinkError("a proposal under the rejection rule is greedy, or its round is negative")


def check_block(block: DraftBlock, sent: DraftRound, *, block_size: int, vocab_size: int) -> None:
    """Raise `LinkError` unless `block` answers `sent`: its epoch and round, γ known tokens a row."""
    if (block.epoch, block.round) != (sent.epoch, sent.round):
        raise LinkError("the drafter answered another round or epoch")
    shape = (sent.propose_keys.shape[0], block_size)
    tokens, confidence = block.tokens, block.confidence_logits
    if tokens.shape != shape or tokens.dtype != torch.int64:
        raise LinkError(f"the drafter answered tokens {list(tokens.shape)} where {list(shape)} were asked")
    if confidence.shape != shape or confidence.dtype != torch.float32:
        raise LinkError(f"the drafter answered confidences {list(confidence.shape)} for {list(shape)} tokens")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise LinkError("the drafter answered a token outside the vocabulary")
    if bool(confidence.isnan().any()):
        raise LinkError("the drafter answered a confidence that is not a number")
    if block.missing and not set(block.missing) <= set(sent.propose_keys.tolist()):
        raise LinkError("the drafter misses a sequence that proposed nothing")
    _check_q(block, sent, vocab_size)


def _check_q(block: DraftBlock, sent: DraftRound, vocab_size: int) -> None:
    """The distributions of the rows that need one: a wrong one would bend the output without a sign."""
    tokens, probs = block.q_tokens, block.q_probs
    if (tokens.dtype, probs.dtype) != (torch.int64, torch.float32) or tokens.shape != probs.shape or tokens.dim() != 2:
        raise LinkError("the drafter answered draft probabilities that are not fp32 beside int64 tokens")
    if not len(sent.rounds) and not tokens.numel():
        return
    under = sent.rounds >= 0
    rows, slots = int(under.sum()), block.tokens.shape[1]
    if tokens.shape[0] != rows or tokens.shape[1] % slots or (rows and not tokens.numel()):
        raise LinkError(f"the drafter answered draft probabilities {list(probs.shape)} for {rows} rows of {slots}")
    if not rows:
        return
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise LinkError("the drafter answered a draft probability of a token outside the vocabulary")
    tokens, probs = tokens.view(rows, slots, -1), probs.view(rows, slots, -1)
    mass, proposed = probs.sum(dim=-1), block.confidence_logits[under] > -torch.inf
    off = ((mass - 1).abs() > _ROUNDING) & (proposed | (mass != 0))
    if not bool(((probs >= 0) & (probs <= 1 + _ROUNDING)).all()) or bool(off.any()):
        raise LinkError("the drafter answered draft probabilities that are no distribution")
    drawn = ((tokens == block.tokens[under][..., None]) & (probs > 0)).any(dim=-1)
    if bool((proposed & ~drawn).any()):
        raise LinkError("the drafter answered a token that its draft probabilities cannot have drawn")
    ordered = tokens.masked_fill(probs == 0, -1).sort(dim=-1).values
    if bool(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any()):
        raise LinkError("the drafter answered two draft probabilities of one token")
