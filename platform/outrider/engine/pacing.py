"""TPOT targets in the planning of a round: who takes part in it, and how much prompt rides along.

Depth alone cannot hold a target: a round that is too long for one token is too long for any. So while somebody is due,
requests without a target sit rounds out and prompts wait, as far as the time until the next due token asks for it.
Everything here is known before the round draws anything.
"""

from __future__ import annotations

import numpy as np

from outrider.engine.pricing import CostMeter
from outrider.engine.sequence import Sequence
from outrider.scheduling import MARGIN, hopeless, needed_tokens
from outrider.scheduling.scheduler import Floats

__all__ = ["Pacing", "needs"]

_LONGEST_PAUSE_S = 0.25
"""Nobody sits out longer, whoever is late: a stream that stalls looks broken."""


class Pacing:
    """Of one round: `room_tokens` is how many tokens its step may have, None without anybody to wait for; `behind`
    says that a plain round of everybody would be too late for someone's next token.
    """

    def __init__(self, decoding: list[Sequence], costs: CostMeter, now_s: float) -> None:
        self._now_s = now_s
        self.room_tokens: int | None = None
        self.behind = False
        paced = [s for s in decoding if s.request.tpot_target_s is not None]
        if paced:
            _judge(paced, now_s, costs.plain_round_s(len(paced)))
        held = [s for s in paced if not s.hopeless]
        if held:
            slack_s = min(_due_s(s) for s in held) - now_s
            room = costs.tokens_within(slack_s, len(held))
            self.room_tokens = max(room, len(held))
            self.behind = room < len(decoding)

    def company(self, decoding: list[Sequence]) -> list[Sequence]:
        """Who takes part: all with a target, and of the others those who have waited longest, as far as there is room.

        In the order given.
        """
        if self.room_tokens is None or len(decoding) <= self.room_tokens:
            return decoding
        held = {s.key for s in decoding if s.request.tpot_target_s is not None and not s.hopeless}
        others = sorted((s for s in decoding if s.key not in held), key=lambda s: s.served_s)
        room = self.room_tokens - len(held)
        joining = held | {
            s.key for place, s in enumerate(others) if place < room or self._now_s - s.served_s > _LONGEST_PAUSE_S
        }
        return [s for s in decoding if s.key in joining]

    def prompt_tokens(self, decoding: int) -> int | None:
        """Largest number of prompt tokens beside so many decoding requests; None for any number."""
        return None if self.room_tokens is None else max(self.room_tokens - decoding, 0)


def _judge(paced: list[Sequence], now_s: float, round_s: float) -> None:
    """Mark who cannot make up what it lacks, even if only those with a target decoded from now on, a token a round."""
    target_s = np.array([s.request.tpot_target_s for s in paced])
    remaining = np.array([s.remaining for s in paced])
    lost = hopeless(_needed(paced, target_s, now_s, round_s), np.ones(len(paced)), target_s, round_s, remaining)
    for sequence, hopeless_ in zip(paced, lost.tolist(), strict=True):
        sequence.hopeless = hopeless_


def needs(decoding: list[Sequence], now_s: float, round_s: float) -> Floats:
    """Expected tokens that targets ask of this round, float64 [R], empty when nobody has a target; round_s is T̂.

    Nothing is asked for the hopeless.
    """
    targets = [None if s.hopeless else s.request.tpot_target_s for s in decoding]
    if all(target is None for target in targets):
        return np.empty(0)
    return _needed(decoding, np.array([np.inf if target is None else target for target in targets]), now_s, round_s)


def _needed(sequences: list[Sequence], target_s: Floats, now_s: float, round_s: float) -> Floats:
    first_s = np.array([s.first_token_s or 0.0 for s in sequences])
    return needed_tokens(now_s, first_s, np.array([s.emitted for s in sequences]), target_s, round_s)


def _due_s(sequence: Sequence) -> float:
    """When its next token is due, by the clock of `first_token_s`."""
    assert sequence.request.tpot_target_s is not None
    pace_s = sequence.request.tpot_target_s * (1.0 - MARGIN)
    return (sequence.first_token_s or 0.0) + sequence.emitted * pace_s
