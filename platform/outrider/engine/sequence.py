"""One request inside the engine: its tokens, its memory, and what happened to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.engine.shaping import Shaping
from outrider.types import FinishReason, GenerationRequest, RequestSummary, TokenLogprob

__all__ = ["NO_SLOTS", "Sequence"]

NO_SLOTS = torch.empty(0, dtype=torch.int64)
"""What a sequence that is not running holds."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Invariants between steps: `num_computed` < len(tokens); while decoding it is len(tokens) − 1, so that the last
    token (the anchor) is the only one the target has not processed, and `draft_held` ≤ num_computed.

    key: 63-bit name of the sequence on the draft link, never reused. slots: int64 slot of every reserved position, the
    beginning of slot_room, which is long enough for all the request may need.
    draft_held: context rows the attached drafter is known to hold; a preempted sequence, which has computed nothing,
    keeps them: rows are a function of the tokens alone. hashes: of full blocks of tokens, from the first;
    published: how many leading blocks others can find. ends: tokens that end it; shaping: what its logits go through,
    None for nothing; drafted_round: the last round with a block; served_s: when it last
    took part in one; sat_out: rounds since then without it; hopeless: its TPOT target is out of reach;
    forecast: survival [γ] that its blocks foretell; prompt_logprobs: of the prompt's tokens so far, where asked for.
    draws: how often the rejection rule drew anything for it, a block or the end of a round: the number of the next
    draw, which nothing sets back.
    """

    request: GenerationRequest
    key: int
    arrived_s: float
    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    slots: Tensor = NO_SLOTS
    slot_room: Tensor = NO_SLOTS
    num_computed: int = 0
    hashes: list[bytes] = field(default_factory=list)
    published: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    draft_held: int = 0
    admitted_s: float | None = None
    first_token_s: float | None = None
    rounds: list[tuple[int, int]] = field(default_factory=list)
    drafted_tokens: int = 0
    draws: int = 0
    drafted_round: int = 0
    served_s: float = 0.0
    sat_out: int = 0
    hopeless: bool = False
    forecast: NDArray[np.float64] | None = None
    finish: FinishReason | None = None
    ends: frozenset[int] = frozenset()
    shaping: Shaping | None = None
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=lambda: [None])

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def most_tokens(self) -> int:
        """Prompt and output at their longest."""
        return self.prompt_tokens + self.request.sampling.max_tokens

    @property
    def emitted(self) -> int:
        """Output tokens so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Output tokens still allowed."""
        return self.request.sampling.max_tokens - self.emitted

    @property
    def decoding(self) -> bool:
        """Whether all but the anchor is computed, and the anchor is an output token."""
        return self.num_computed == len(self.tokens) - 1 and self.emitted > 0

    @property
    def rejects(self) -> bool:
        """Whether its drafts are verified by the rejection rule: greedy ones need none."""
        sampling = self.request.sampling
        return sampling.verification == "rejection" and sampling.temperature > 0

    @property
    def reuses_prefix(self) -> bool:
        """Whether computed prompt rows may be skipped: not when their logits are wanted."""
        return self.request.sampling.prompt_logprobs is None

    def prompt_rows(self, length: int) -> range:
        """Positions of the next `length` whose logits tell a prompt token's probability that is not known yet."""
        if self.request.sampling.prompt_logprobs is None:
            return range(0)
        first = max(self.num_computed, len(self.prompt_logprobs) - 1)
        return range(first, min(self.num_computed + length, self.prompt_tokens - 1))

    def urgency(self, now_s: float) -> float:
        """Who has most is admitted first, and its prompt computed first: weight times seconds since arrival.

        Of equal weights whoever came first; a light one waits longer, never for ever.
        """
        return self.request.batch_class.weight * (now_s - self.arrived_s)

    @property
    def precedence(self) -> tuple[int, float, int]:
        """Who sorts last is preempted first."""
        return self.request.batch_class.preemption_order, self.arrived_s, self.key

    @property
    def spare_positions(self) -> int:
        """Positions it holds beyond its tokens."""
        return len(self.slots) - len(self.tokens)

    def depth_limit(self, block_size: int) -> int:
        """Most draft tokens a round may verify: the block, the request's cap, and one short of what may be emitted."""
        cap = self.request.depth_cap
        return max(0, min(block_size, block_size if cap is None else cap, self.remaining - 1))

    def summary(self, now_s: float) -> RequestSummary:
        """What happened up to now; times in seconds from arrival on."""
        admitted = self.admitted_s if self.admitted_s is not None else now_s
        first = self.first_token_s if self.first_token_s is not None else now_s
        return RequestSummary(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.emitted,
            rounds=len(self.rounds),
            drafted_tokens=self.drafted_tokens,
            admitted_tokens=sum(admitted_ for admitted_, _ in self.rounds),
            accepted_tokens=sum(accepted for _, accepted in self.rounds),
            queue_s=admitted - self.arrived_s,
            prefill_s=first - admitted,
            decode_s=now_s - first,
            round_records=tuple(self.rounds),
            cached_tokens=self.cached_tokens,
            preemptions=self.preemptions,
        )
