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

__all__ = [
    "DraftBlock",
    "DraftHandler",
    "DraftLink",
    "DraftRound",
    "DrafterWelcome",
    "TargetHello",
]


def _no_ints() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


def _no_floats() -> Tensor:
    return torch.empty(0, dtype=torch.float32)


def _no_places() -> Tensor:
    return torch.empty(0, 0, dtype=torch.int64)


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
    rounds: int64 [np], what numbers this draw of a row that is verified by the rejection rule, −1 for the other rows;
        empty when there is no such row. Its request's nonce is its seed.
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
    rounds: Tensor = field(default_factory=_no_ints)


@dataclass(frozen=True, slots=True, eq=False)
class DraftBlock:
    """Drafter to target, one per round, also when nothing was proposed.

    tokens: int64 [np, γ]; confidence_logits: fp32 [np, γ], before any calibration.
    missing: proposing keys whose held context was not s rows. Their context is dropped, their tokens are 0
        and their confidences minus infinity; the target refills them from 0.
    q_tokens (int64), q_probs (fp32): [nr, γ·w], what the nr rows under the rejection rule were drawn from, in their
        order: w tokens and their probabilities per slot; a probability of 0 is an empty place, a slot without mass
        proposes nothing. Empty [0, 0] when no row is under that rule.
    draft_s: seconds the drafter spent on the round.
    """

    epoch: int
    round: int
    tokens: Tensor
    confidence_logits: Tensor
    missing: tuple[int, ...] = ()
    draft_s: float = 0.0
    q_tokens: Tensor = field(default_factory=_no_places)
    q_probs: Tensor = field(default_factory=_no_rows)


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
