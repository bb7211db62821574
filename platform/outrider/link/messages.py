"""What a target and its drafter say to each other, and the protocol both ends of a link keep.

Shapes: na appended sequences, np proposing sequences, n new context rows in all, d the target's hidden
size, γ the drafter's block size. Integer tensors are int64, the others fp32. Keys are 63-bit integers that
are never reused.
The message classes compare by identity: they hold tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from outrider.errors import LinkError

__all__ = [
    "DraftBlock",
    "DraftHandler",
    "DraftLink",
    "DraftRound",
    "DrafterWelcome",
    "TargetHello",
    "check_block",
    "check_round",
]


def _no_ints() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


def _no_floats() -> Tensor:
    return torch.empty(0, dtype=torch.float32)


def _no_rows() -> Tensor:
    return torch.empty(0, 0, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class TargetHello:
    """What a target is; a drafter that was not made for it refuses.

    projection_fingerprint: sha256 hex of the `fc` and `hidden_norm` bytes (fp32, contiguous) the target
        projects with; empty for a target that projects nothing, which suits drafters that read token ids alone.
    """

    model: str
    vocab_size: int
    hidden_size: int
    projection_fingerprint: str


@dataclass(frozen=True, slots=True)
class DrafterWelcome:
    """What the drafter answers: its incarnation (a random 63-bit epoch), block size γ and name.

    row_size: width of the context rows it reads, the target's hidden size; 0 when it reads token ids alone.
    """

    epoch: int
    block_size: int
    name: str
    row_size: int


@dataclass(frozen=True, slots=True, eq=False)
class DraftRound:
    """Target to drafter, one per engine step, for all its sequences: frees, then appends, then proposals.

    frees: sequences to forget; unknown ones are ignored.
    append_keys, append_starts, append_counts: int64 [na]; rows: [n, d], the projected context rows of
        positions start…start+count-1, sequence after sequence. A start of 0 replaces what is held; any other
        start must equal the held length, or the context is dropped and reported missing at its next proposal.
    append_tokens: int64 [n], the token ids at those positions. A drafter that reads them alone gets rows [n, 0].
    propose_keys, anchors, positions: int64 [np]; the anchor stands at position s, s rows must be held.
    temperature, top_p (fp32), seeds, choices (int64): [np], how each proposing row samples; temperature 0 is
        greedy. top_k (int64) and min_p (fp32) are as long, or empty when no row has such a cut.
    """

    epoch: int
    round: int
    frees: tuple[int, ...] = ()
    append_keys: Tensor = field(default_factory=_no_ints)
    append_starts: Tensor = field(default_factory=_no_ints)
    append_counts: Tensor = field(default_factory=_no_ints)
    rows: Tensor = field(default_factory=_no_rows)
    append_tokens: Tensor = field(default_factory=_no_ints)
    propose_keys: Tensor = field(default_factory=_no_ints)
    anchors: Tensor = field(default_factory=_no_ints)
    positions: Tensor = field(default_factory=_no_ints)
    temperature: Tensor = field(default_factory=_no_floats)
    top_p: Tensor = field(default_factory=_no_floats)
    seeds: Tensor = field(default_factory=_no_ints)
    choices: Tensor = field(default_factory=_no_ints)
    top_k: Tensor = field(default_factory=_no_ints)
    min_p: Tensor = field(default_factory=_no_floats)


@dataclass(frozen=True, slots=True, eq=False)
class DraftBlock:
    """Drafter to target, one per round, also when nothing was proposed.

    tokens: int64 [np, γ]; confidence_logits: fp32 [np, γ], before any calibration.
    missing: proposing keys whose held context was not s rows. Their context is dropped, their tokens are 0
        and their confidences minus infinity; the target refills them from 0.
    draft_s: seconds the drafter spent on the round.
    """

    epoch: int
    round: int
    tokens: Tensor
    confidence_logits: Tensor
    missing: tuple[int, ...] = ()
    draft_s: float = 0.0


class DraftHandler(Protocol):
    """What a link asks of the drafter's server. One thread at a time calls it."""

    def hello(self, hello: TargetHello) -> DrafterWelcome:
        """Accept a target or raise `DrafterMismatch`."""

    def handle(self, client: bytes, message: DraftRound, *, trusted: bool = False) -> DraftBlock:
        """Apply one round of `client`; raises `LinkError` and changes nothing when the round is malformed.

        A `trusted` round comes from this process and is not looked into.
        """

    def forget_client(self, client: bytes) -> None:
        """Free everything held for `client`; an unknown one is ignored."""


class DraftLink(Protocol):
    """The target's end: one round out, one block back. After any `LinkError` the link is dead: close it."""

    welcome: DrafterWelcome

    def send(self, message: DraftRound) -> None:
        """Hand over a round without waiting for its block; raises `LinkError` when one is outstanding."""

    def receive(self, timeout_s: float) -> DraftBlock:
        """The block of the round sent last; raises `LinkError` on timeout, mismatch or malformed content."""

    def close(self) -> None:
        """Let the drafter forget this target. Idempotent."""


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
