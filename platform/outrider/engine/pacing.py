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
from outrider.scheduling.scheduler import Floats, Ints

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
        held = [s for s in decoding if s.request.tpot_target_s is not None and not s.hopeless]
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


def needs(decoding: list[Sequence], caps: Ints, expected: Floats, now_s: float, round_s: float) -> Floats:
    """Expected tokens that targets ask of this round, float64 [R], empty when nobody has a target.

    caps int64 [R] and expected survival float64 [R, γ] as the schedulers take them; round_s is T̂. Requests that cannot
    keep their target any more are marked hopeless and asked nothing.
    """
    targets = [s.request.tpot_target_s for s in decoding]
    if all(target is None for target in targets):
        return np.empty(0)
    target_s = np.array([np.inf if target is None else target for target in targets])
    first_s = np.array([s.first_token_s or 0.0 for s in decoding])
    needed = needed_tokens(now_s, first_s, np.array([s.emitted for s in decoding]), target_s, round_s)
    reachable = 1.0 + np.where(np.arange(expected.shape[1]) < caps[:, None], expected, 0.0).sum(axis=1)
    lost = hopeless(needed, reachable, target_s, round_s, np.array([s.remaining for s in decoding]))
    for sequence, hopeless_ in zip(decoding, lost.tolist(), strict=True):
        sequence.hopeless = hopeless_
    return np.where(lost, 0.0, needed)


def _due_s(sequence: Sequence) -> float:
    """When its next token is due, by the clock of `first_token_s`."""
    assert sequence.request.tpot_target_s is not None
    pace_s = sequence.request.tpot_target_s * (1.0 - MARGIN)
    return (sequence.first_token_s or 0.0) + sequence.emitted * pace_s
