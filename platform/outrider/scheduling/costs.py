"""What the parts of a round cost where they were measured: verifying, drafting, catching up, transfer.

Shapes: B tokens of a target step, R requests that propose, C tokens of context per sequence.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields

import numpy as np

from outrider.errors import CurveError
from outrider.scheduling.curve import StepCostCurve, isotonic

__all__ = ["CostModel", "CostSubject"]

_CONTEXT_GRAIN = 32
"""Tokens of context that share one interpolated curve."""
_EXACT = 1 - 1e-9
"""Pooling twice rounds twice."""


@dataclass(frozen=True, slots=True)
class CostSubject:
    """What costs were measured of. A difference in any field makes them stale.

    target, drafter: digests of the models' files, no drafter is empty; a role is device/dtype/threads; link says where
    the drafter runs; step_kind which forward of the target ran; cpu names the host's processor and counts its cores.
    """

    target: str
    target_role: str
    step_kind: str
    cpu: str
    drafter: str = ""
    drafter_role: str = ""
    link: str = ""

    @property
    def fingerprint(self) -> str:
        """sha256 hex of all fields."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()

    def differences(self, other: CostSubject) -> list[str]:
        """`field: this one's value, not the other's` for every field that differs."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name} is {mine or 'none'}, not {theirs or 'none'}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a round's parts. Immutable: a refinement is another model.

    verify: (C, T_verify(B)) for ascending C, all of the same sizes, no cheaper at a longer context; between two of
    them is interpolated. draft: T_draft(R), the round trip as the engine waits for it, with transfer and without
    context rows, None while unmeasured; a context row that the drafter lacks adds append_row_s. transfer_s: what of a
    round trip of one request is not the drafter's own time.
    subject is None for costs that were given and not measured; those are never refined.

    Raises CurveError for anything else.
    """

    verify: tuple[tuple[int, StepCostCurve], ...]
    draft: StepCostCurve | None = None
    append_row_s: float = 0.0
    transfer_s: float = 0.0
    subject: CostSubject | None = None
    version: str = field(init=False)
    _steps: dict[int, StepCostCurve] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        contexts = [context for context, _ in self.verify]
        if not contexts or contexts != sorted(set(contexts)) or contexts[0] < 0:
            raise CurveError("verify: a cost model needs curves at one context or more, ascending", param="verify")
        for (before, shorter), (context, longer) in zip(self.verify, self.verify[1:], strict=False):
            if longer.tokens != shorter.tokens:
                raise CurveError(
                    f"verify: contexts {before} and {context} were measured at other sizes", param="verify"
                )
            if any(more < less * _EXACT for less, more in zip(shorter.seconds, longer.seconds, strict=True)):
                raise CurveError(f"verify: a step is cheaper at context {context} than at {before}", param="verify")
        for name in ("append_row_s", "transfer_s"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise CurveError(f"{name}: {value} is no time: 0 or more seconds", param=name)
        parts = (self.points(), self.draft and self.draft.points(), self.append_row_s, self.transfer_s, self.subject)
        object.__setattr__(self, "version", hashlib.sha256(repr(parts).encode()).hexdigest()[:12])

    @classmethod
    def given(cls, curve: StepCostCurve) -> CostModel:
        """One curve for every context, taken as it is."""
        return cls(((0, curve),))

    @classmethod
    def measured(
        cls, samples: Sequence[tuple[int, int, float]], *, subject: CostSubject, draft: StepCostCurve | None = None
    ) -> CostModel:
        """From (context, tokens, seconds) of steps: monotone in tokens, then pooled until monotone in context, too.

        Pooling keeps the order of its inputs, so the second keeps what the first made. Raises CurveError as
        `StepCostCurve.measured` does.
        """
        contexts = sorted({context for context, _, _ in samples})
        curves = [StepCostCurve.measured([(b, s) for c, b, s in samples if c == context]) for context in contexts]
        columns = [isotonic(column) for column in zip(*(curve.seconds for curve in curves), strict=True)]
        verify = tuple(
            (context, StepCostCurve.measured(list(zip(curves[0].tokens, seconds, strict=True))))
            for context, seconds in zip(contexts, zip(*columns, strict=True), strict=True)
        )
        return cls(verify, draft, subject=subject)

    def step(self, context_tokens: float) -> StepCostCurve:
        """T_verify(B) at a mean context per sequence; outside of what was measured the nearest curve."""
        if len(self.verify) == 1:
            return self.verify[0][1]
        first, last = self.verify[0][0], self.verify[-1][0]
        cell = round(min(max(context_tokens, first), last) / _CONTEXT_GRAIN)
        curve = self._steps.get(cell)
        if curve is None:
            curve = self._steps[cell] = self._between(min(max(cell * _CONTEXT_GRAIN, first), last))
        return curve

    def draft_s(self, requests: int, rows: int) -> float:
        """Seconds of a round trip for so many requests that lack so many context rows; 0 while unmeasured."""
        return 0.0 if self.draft is None else self.draft.step_s(requests) + rows * self.append_row_s

    def scaled(self, verify: Sequence[float], draft: Sequence[float]) -> CostModel:
        """With every point of the step curves and of the draft curve times its factor, monotone again.

        Factors that would make a step curve flat give way to their median, which leaves its shape.
        """
        steps = [(context, curve.scaled(verify)) for context, curve in self.verify]
        if any(curve.flat for _, curve in steps):
            common = [float(np.median(verify))] * len(verify)
            steps = [(context, curve.scaled(common)) for context, curve in self.verify]
        drafted = None if self.draft is None else self.draft.scaled(draft)
        return CostModel(tuple(steps), drafted, self.append_row_s, self.transfer_s, self.subject)

    def check_subject(self, subject: CostSubject, *, source: str, renew: str) -> None:
        """Raise CurveError, naming every difference and the command `renew`, unless they were measured of `subject`."""
        if self.subject is None:
            raise CurveError(f"{source}: subject: these costs were not measured; renew them: {renew}", param="subject")
        if stale := self.subject.differences(subject):
            raise CurveError(f"{source}: stale: {'; '.join(stale)}; renew it: {renew}", param="fingerprint")

    def points(self) -> tuple[tuple[int, tuple[tuple[int, float], ...]], ...]:
        """((context, ((tokens, seconds), …)), …)."""
        return tuple((context, curve.points()) for context, curve in self.verify)

    def _between(self, context_tokens: int) -> StepCostCurve:
        """Linear in the context: attention is, and nothing else in a step depends on it."""
        for (before, shorter), (after, longer) in zip(self.verify, self.verify[1:], strict=False):
            if context_tokens <= after:
                share = (context_tokens - before) / (after - before)
                pairs = zip(shorter.seconds, longer.seconds, strict=True)
                seconds = tuple(less + share * (more - less) for less, more in pairs)
                return StepCostCurve(shorter.tokens, seconds, f"{self.version}@{context_tokens}")
        return self.verify[-1][1]
