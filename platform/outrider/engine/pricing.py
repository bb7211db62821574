"""What a round of a size will cost: measured costs, and what the host does beside them, which no profile knows."""

from __future__ import annotations

import numpy as np

from outrider.engine.costing import Costing
from outrider.engine.load import Typical
from outrider.scheduling import RoundCosts
from outrider.scheduling.scheduler import Floats, Ints

__all__ = ["CostMeter"]

_FEWEST_PLAIN = 3


class CostMeter:
    """Medians of recent rounds by size class, requests to the next power of two.

    Host seconds are the rest of a round without prompts, after its draft and T(B): what T(B) leaves out is in them. A
    class without rounds of its own is read off its neighbours; a drafted round books at least what a plain one does.
    Where no draft was measured beforehand, medians of drafts stand in, and the first of all is taken to be free.
    """

    def __init__(self, costing: Costing) -> None:
        self._costing = costing
        self._plain: dict[int, Typical] = {}
        self._drafted: dict[int, Typical] = {}
        self._draft: dict[int, Typical] = {}

    def costs(self, requests: int, other_tokens: int) -> RoundCosts:
        """Costs of a round of so many requests, beside other_tokens of prompts."""
        draft = self._costing.costs.draft
        plain_s, drafted_s = _near(self._plain, requests), _near(self._drafted, requests)
        return RoundCosts(
            step=self._costing.curve,
            draft=self._draft_s if draft is None else draft.seconds_at,
            plain_s=(drafted_s or 0.0) if plain_s is None else plain_s,
            drafted_s=max(plain_s or 0.0, drafted_s or 0.0),
            append_row_s=self._costing.costs.append_row_s,
            other_tokens=other_tokens,
        )

    def knows_plain(self, requests: int) -> bool:
        """Whether some plain rounds of this size were seen: what drafts save is guesswork before.

        Costs that were given, not measured, are taken at their word.
        """
        known = self._plain.get(requests.bit_length())
        return self._costing.costs.subject is None or (known is not None and known.samples >= _FEWEST_PLAIN)

    def plain_round_s(self, requests: int) -> float:
        """Seconds of a round of so many requests without drafts or prompts."""
        return (_near(self._plain, requests) or 0.0) + self._costing.curve.step_s(requests)

    def tokens_within(self, seconds: float, requests: int) -> int:
        """Tokens of the largest plain step whose round, with so many requests, takes no longer; 0 for none."""
        plain_s = _near(self._plain, requests) or 0.0
        return self._costing.curve.tokens_within(seconds - plain_s)

    def learn(self, requests: int, tokens: int, draft_s: float, round_s: float) -> None:
        """A round of so many decoding requests and no prompts."""
        rest_s = max(round_s - draft_s - self._costing.curve.step_s(tokens), 0.0)
        _add(self._drafted if draft_s else self._plain, requests, rest_s)

    def learn_draft(self, requests: int, draft_s: float) -> None:
        """Waiting for blocks of so many requests took this long."""
        _add(self._draft, requests, draft_s)

    def _draft_s(self, requests: Ints) -> Floats:
        """T_draft: between known classes along a line, beyond them half of it in proportion."""
        if not self._draft:
            return np.zeros(len(requests))
        known = sorted(self._draft)
        sizes = np.array([0.75 * (1 << bits) for bits in known])  # the middle of the class
        seconds = np.array([self._draft[bits].value for bits in known])
        inside = np.interp(requests, sizes, seconds)
        beyond = np.where(requests > sizes[-1], requests / sizes[-1], np.minimum(requests / sizes[0], 1.0))
        return np.asarray(inside * (0.5 + 0.5 * beyond))


def _add(classes: dict[int, Typical], requests: int, seconds: float) -> None:
    classes.setdefault(requests.bit_length(), Typical()).add(seconds)


def _near(classes: dict[int, Typical], requests: int) -> float | None:
    """Of the nearest class that is known; None without any."""
    bits = requests.bit_length()
    nearest = min(classes, key=lambda each: abs(each - bits), default=None)
    return None if nearest is None else classes[nearest].value
