"""What estimates buy when a cheaper model answers some of the prompts: under a quality floor, and at equal shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floor", "Trade", "at_floor", "at_share"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Floor:
    """What a quality floor comes to: the first (cheapest) model that promises it answers, else the last one.

    share: of prompts that went to the first model; promised: the mean of what was estimated for them; right: what they
    came to (both None without any). quality: right answers over all prompts.
    """

    floor: float
    share: float
    promised: float | None
    right: float | None
    quality: float


@dataclass(frozen=True, slots=True)
class Trade:
    """The first model answers a share of the prompts, those that lose least by it; the last answers the others.

    quality: right answers over all, with losses estimated by prompt; by_domain: by domain; at_random: with none.
    """

    share: float
    quality: float
    by_domain: float
    at_random: float


def at_floor(floor: float, estimates: Floats, correct: Floats) -> Floor:
    """estimates and correct: [prompts, models], models from cheap to dear."""
    enough = estimates >= floor
    enough[:, -1] = True
    chosen = enough.argmax(axis=1)
    first = chosen == 0
    quality = float(np.take_along_axis(correct, chosen[:, None], axis=1).mean())
    if not first.any():
        return Floor(floor, 0.0, None, None, quality)
    return Floor(
        floor, float(first.mean()), float(estimates[first, 0].mean()), float(correct[first, 0].mean()), quality
    )


def at_share(share: float, estimates: Floats, by_domain: Floats, correct: Floats) -> Trade:
    """estimates, by_domain, correct: [prompts, models], the first model against the last one."""
    first, last = correct[:, 0].mean(), correct[:, -1].mean()
    return Trade(
        share,
        _quality(share, estimates, correct),
        _quality(share, by_domain, correct),
        float(share * first + (1 - share) * last),
    )


def _quality(share: float, estimates: Floats, correct: Floats) -> float:
    """Right answers over all; prompts of one estimated loss are split evenly, as by lot."""
    losses, place = np.unique(estimates[:, -1] - estimates[:, 0], return_inverse=True)
    count = np.bincount(place, minlength=len(losses))
    taken = np.clip((share * len(place) - (np.cumsum(count) - count)) / count, 0, 1)[place]
    return float((taken * correct[:, 0] + (1 - taken) * correct[:, -1]).mean())
