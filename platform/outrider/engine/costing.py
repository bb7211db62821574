"""What the engine knows of its own costs: measured at start, again when they no longer hold, refined in between."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from outrider.engine.cache import PagedCache
from outrider.engine.draft_profile import measure_draft
from outrider.engine.drafting import Drafting
from outrider.engine.load import RoundTimes
from outrider.engine.plan import Plan
from outrider.engine.refining import Refinement, RoundShape
from outrider.engine.target import TargetModel
from outrider.errors import CurveError
from outrider.scheduling import CostModel, StepCostCurve

__all__ = ["Costing", "Profile"]

_log = logging.getLogger(__name__)

_PAUSE_S = 0.05
"""Rounds further apart find caches and clocks cold."""
_RENEW_AFTER_S = 60.0
"""Costs that do not hold are measured again at most this often."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How costs are measured: `steps` measures those of the target, a draft is measured for up to max_requests."""

    steps: Callable[[], CostModel]
    max_requests: int


class Costing:
    """Owns the costs of one engine. Without a profile nothing is measured, and what was given is never refined."""

    def __init__(self, target: TargetModel, costs: CostModel, profile: Profile | None) -> None:
        self._target = target
        self._profile = profile
        self._refinement = Refinement(costs)
        self._profiled_kind = costs.subject.step_kind if costs.subject else target.step_kind
        self._running_kind = target.step_kind
        self._drafter: str | None = None
        self._draft_due = False
        self._measured_s = self._ended_s = -math.inf
        self._context_tokens = 0.0

    @property
    def costs(self) -> CostModel:
        """The best that is known."""
        return self._refinement.costs

    @property
    def curve(self) -> StepCostCurve:
        """T_verify(B) at the mean context of the requests that decoded last."""
        return self.costs.step(self._context_tokens)

    @property
    def bias(self) -> float:
        """Mean of (predicted − real) ÷ real of recent rounds."""
        return self._refinement.bias.value

    @property
    def error(self) -> float:
        """Mean of |predicted − real| ÷ real of recent rounds."""
        return self._refinement.error.value

    def meet(self, drafter: str) -> None:
        """Another drafter is attached: what was known of the last one's draft is not of it."""
        if drafter == self._drafter:
            return
        measured = self._refinement.measured
        if self._drafter is not None and measured.draft is not None:
            measured = replace(measured, draft=None)
            self._refinement = Refinement(measured)
        self._drafter = drafter
        self._draft_due = measured.draft is None

    def renew(self, drafting: Drafting, cache: PagedCache) -> bool:
        """Measure what is missing, was measured of another step, or no longer holds; only while nothing runs.

        A measurement that fails leaves what was known: too dear, it drafts too little, and answers stay the same.
        """
        if self._profile is None:
            return False
        known = self._refinement.measured
        drifted = self._refinement.drifted and time.monotonic() - self._measured_s > _RENEW_AFTER_S
        costs = known
        if drifted or self._profiled_kind != self._target.step_kind:
            costs = self._measured(lambda: self._steps(known), known)
        if drafting.ready and costs.subject and (self._draft_due or (drifted and known.draft)):
            self._draft_due = False
            most, context = self._profile.max_requests, self._target.context_tokens
            before = costs
            costs = self._measured(
                lambda: measure_draft(before, drafting, cache, max_requests=most, context_tokens=context), costs
            )
        if costs is known:
            return False
        self._refinement = Refinement(costs)
        return True

    def _steps(self, known: CostModel) -> CostModel:
        """The target's costs anew, the drafter's as they are known."""
        assert self._profile is not None
        self._profiled_kind = self._target.step_kind
        steps = self._profile.steps()
        return replace(steps, draft=known.draft, append_row_s=known.append_row_s, transfer_s=known.transfer_s)

    def _measured(self, measure: Callable[[], CostModel], otherwise: CostModel) -> CostModel:
        self._measured_s = time.monotonic()
        try:
            return measure()
        except CurveError as error:
            _log.warning("costs of a round could not be measured: %s", error.message)
            return otherwise

    def learn(self, plan: Plan, drafting: Drafting, times: RoundTimes, started_s: float, ended_s: float) -> RoundTimes:
        """Take in a real round between two readings of one clock; its times, with what was foretold if it is looked at.

        Rounds with prompts are left out: no curve was measured with such.
        """
        refinement = self._refinement
        if started_s - self._ended_s > _PAUSE_S:
            refinement.cool()
        self._ended_s = ended_s
        if plan.prefill or not refinement.due() or not refinement.measured.subject:
            return times
        if self._target.step_kind != self._running_kind:
            self._running_kind = self._target.step_kind
            self._refinement = Refinement(refinement.measured)
            return times
        shape = _shape(plan, drafting, times.tokens)
        self._context_tokens = shape.context_tokens
        times = replace(times, predicted_s=refinement.predicted_s(shape))
        refinement.add(shape, times)
        return times


def _shape(plan: Plan, drafting: Drafting, tokens: int) -> RoundShape:
    requests = len(plan.decoding)
    context_tokens = sum(len(sequence.tokens) for sequence, _ in plan.decoding) / requests
    if not plan.draft_s:
        return RoundShape(tokens, requests, context_tokens, 0, 0)
    return RoundShape(tokens, requests, context_tokens, drafting.asked_requests, drafting.caught_up_rows)
