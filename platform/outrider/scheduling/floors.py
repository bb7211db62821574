"""TPOT targets as expected tokens a round must emit. All inputs are at least one round old.

With t₁ the time of the first token, n emitted tokens and pace D = target·(1 − margin), a request is on time after a
round of T̂ seconds if it has emitted 1 + (now + T̂ − t₁)/D tokens by then. What it lacks is carried in n. The margin is
there because an expected floor at the target itself is missed half the time.
"""

from __future__ import annotations

import numpy as np

from outrider.scheduling.scheduler import Bools, Floats, Ints

__all__ = ["MARGIN", "hopeless", "needed_tokens"]

MARGIN = 0.1


def needed_tokens(
    now_s: float, first_token_s: Floats, emitted: Ints, target_s: Floats, round_s: float, margin: float = MARGIN
) -> Floats:
    """Expected tokens each request should emit this round, float64 [R], at least 0; 0 where target_s is infinite.

    first_token_s, target_s (seconds per token, infinity for none): float64 [R]; emitted: int64 [R], the first included;
    round_s: T̂, the predicted length of the round.
    """
    pace = target_s * (1.0 - margin)
    return np.maximum(1.0 + (now_s + round_s - first_token_s) / pace - emitted, 0.0) * np.isfinite(target_s)


def hopeless(
    needed: Floats, reachable: Floats, target_s: Floats, round_s: float, remaining: Ints, margin: float = MARGIN
) -> Bools:
    """Requests that will end late whatever is verified for them, bool [R]: to be counted and released from floors.

    reachable: 1 + Σ_{j≤cap} a_j as earlier rounds foretell it, float64 [R]. A request gains on its pace by reachable −
    round_s/D tokens a round, and has remaining/reachable rounds to make up what it lacks.
    """
    gained = reachable - round_s / (target_s * (1.0 - margin))
    return needed - reachable > np.maximum(gained, 0.0) * remaining / reachable
