"""Drafting against one's better judgement, now and then: who never drafts learns nothing of what drafts would bring."""

from __future__ import annotations

import numpy as np

from outrider.scheduling import Budget, Requests, RoundCosts
from outrider.scheduling.scheduler import Bools

__all__ = ["Probes"]

_SHARE = 0.005


class Probes:
    """Spends half a per cent of the time on drafts that the scheduler would skip, one request at a time.

    Every round saves up; a probe is due once its expected loss is saved. Where not even a block accepted to its end
    would pay, nothing is tried.
    """

    def __init__(self) -> None:
        self._saved_s = 0.0

    def save(self, round_s: float) -> None:
        """A round went by."""
        self._saved_s = min(self._saved_s + _SHARE * round_s, 1.0)

    def pick(self, requests: Requests, costs: RoundCosts, budget: Budget, rounds_since: list[int]) -> Bools | None:
        """Who is to be drafted for beside the budget's, bool [R], or None.

        rounds_since: rounds since each request was drafted for. It is paid for here.
        """
        open_ = (requests.caps > 0) & ~budget.drafted
        if self._saved_s <= 0 or not open_.any():
            return None
        who = int(np.where(open_, rounds_since, -1).argmax())
        slots = int(min(requests.caps[who], requests.expected.shape[1]))
        verify_s = costs.verify_s(len(requests), slots)
        plain_s = costs.plain_s + float(verify_s[0])
        extra_s = costs.drafted_s - costs.plain_s + float(costs.draft(np.array([1]))[0] + verify_s[-1] - verify_s[0])
        if len(requests.lag_tokens):
            extra_s += costs.append_row_s * int(requests.lag_tokens[who])
        token_s = plain_s / len(requests)
        if slots * token_s <= extra_s:
            return None
        loss_s = extra_s - float(requests.expected[who, :slots].sum()) * token_s
        if loss_s > self._saved_s:
            return None
        self._saved_s -= max(loss_s, 0.0)
        probes = np.zeros(len(requests), dtype=np.bool_)
        probes[who] = True
        return probes
