"""What a prefix scheduler decides, and from what.

A round is scheduled in two parts. Before drafting, `budget` says whom to draft for: skipping a draft is an action, and
the saving that cutting a block cannot give. After drafting, `fill` cuts each block by live confidences.

Everything in `Requests` and `RoundCosts` is at least one round old or fixed at arrival, so nothing decided from them
looks at what a round draws. Under rejection verification the event {ℓ_r ≥ k} must not depend on x_k or anything drawn
after it (DSpark, arXiv 2607.05147, Appendix A); a scheduler says in `admissible` whether it keeps to that. Under
coupled verification every scheduler is lossless.

Shapes: R decoding requests, γ block size, N candidates (request, slot) in the order in which they are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from outrider.scheduling.curve import StepCostCurve

__all__ = [
    "Bools",
    "Budget",
    "Floats",
    "Ints",
    "PrefixScheduler",
    "Requests",
    "RoundCosts",
    "candidates",
    "depths_of",
    "places_within",
    "running",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def _no_ints() -> Ints:
    return np.empty(0, dtype=np.int64)


def _no_floats() -> Floats:
    return np.empty(0)


def _no_bools() -> Bools:
    return np.empty(0, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Requests:
    """R decoding requests. The optional arrays are empty where no request has such a thing.

    caps: largest ℓ allowed, int64 [R]; 0 is never drafted for.
    weights: w > 0 of the batch class, float64 [R].
    expected: prefix survival a_j as earlier rounds foretell it, float64 [R, γ], non-increasing along a row.
    lag_tokens: context rows the drafter lacks, int64 [R]; catching up is part of drafting for a request.
    remaining: output tokens still allowed, int64 [R].
    needed: expected tokens this round must emit to keep the request's TPOT target, float64 [R]; 0 for no target.
    tenants: number of the request's tenant, int64 [R], an index into allowances.
    allowances: draft tokens of each tenant that this round may verify, int64 [T]; below 0 for any number.
    probes: requests to draft for whether that pays or not, bool [R].
    room_tokens: draft tokens that this round may verify in all; below 0 for any number.
    """

    caps: Ints
    weights: Floats
    expected: Floats
    lag_tokens: Ints = field(default_factory=_no_ints)
    remaining: Ints = field(default_factory=_no_ints)
    needed: Floats = field(default_factory=_no_floats)
    tenants: Ints = field(default_factory=_no_ints)
    allowances: Ints = field(default_factory=_no_ints)
    probes: Bools = field(default_factory=_no_bools)
    room_tokens: int = -1

    def __len__(self) -> int:
        return len(self.caps)


def _free(requests: Ints) -> Floats:
    return np.zeros(len(requests))


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """Seconds of a round's parts: T = host + T_draft + T_verify, transfer inside T_draft.

    step: T(B) at the context length of these requests.
    draft: T_draft(R) for R requests, vectorised; one row of lag takes `append_row_s` more.
    plain_s, drafted_s: host seconds of a round without and with drafts.
    other_tokens: tokens in the same step that are no decoding request's (prompt chunks).
    """

    step: StepCostCurve
    draft: Callable[[Ints], Floats] = _free
    plain_s: float = 0.0
    drafted_s: float = 0.0
    append_row_s: float = 0.0
    other_tokens: int = 0

    def verify_s(self, requests: int, most: int) -> Floats:
        """T of a step of these requests' anchors and 0…`most` draft tokens, float64 [most + 1].

        Prompts beside them are computed either way, so they count only in what drafts cost on top of them. Divided by
        the whole step, a long prompt would make any draft look cheap.
        """
        beside = self.step.seconds_at(self.other_tokens + requests + np.arange(most + 1))
        if not self.other_tokens:
            return beside
        return beside + (self.step.step_s(requests) - float(beside[0]))

    def hull_s(self, requests: int, most: int) -> Floats:
        """As `verify_s` on the lower convex hull of T, whose slope neither vanishes on a stair nor leaps at an edge."""
        tokens = self.other_tokens + requests + np.arange(most + 1)
        hull = self.step.hull.seconds_at(tokens)
        start_s = self.step.step_s(requests) if self.other_tokens else self.step.step_s(int(tokens[0]))
        return hull + (start_s - float(hull[0]))


@dataclass(frozen=True, slots=True)
class Budget:
    """What was decided before drafting: whom to draft for, bool [R], and how many draft tokens to verify in all.

    `tokens` below 0 leaves the number to live confidences. draft_s: predicted seconds of the draft. gain: at most this
    is expected Θ of a round with drafts ÷ that of a plain one; 0 where none was considered.
    """

    drafted: Bools
    tokens: int = -1
    draft_s: float = 0.0
    gain: float = 0.0


class PrefixScheduler(Protocol):
    """Stateless: the same arguments give the same decision."""

    @property
    def name(self) -> str:
        """As `scheduler_named` reads it."""

    @property
    def admissible(self) -> bool:
        """Whether rejection verification stays lossless under it."""

    @property
    def explores(self) -> bool:
        """Whether it skips drafts on what it believes of them, so that someone must probe now and then."""

    @property
    def paces(self) -> bool:
        """Whether TPOT targets are kept: without, `needed` is empty and everyone takes part in every round."""

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        """The part before drafting."""

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """Depth ℓ_r int64 [R] from live prefix survival float64 [R, γ], which is 0 where nothing was drafted."""


def candidates(values: Floats, caps: Ints) -> tuple[Floats, Ints]:
    """Values and owners of all slots within the caps whose value is above 0, largest value first.

    values: float64 [R, γ], non-increasing along a row, so that the order respects prefixes. Ties are broken by slot,
    then request, never by what was drawn.
    """
    slots = values.shape[1]
    flat = np.where(np.arange(slots)[:, None] < caps[None, :], values.T, 0.0).ravel()
    there = np.flatnonzero(flat > 0)
    order = there[np.argsort(-flat[there], kind="stable")]
    return flat[order], order % len(caps)


def running(start: float, gains: Floats) -> Floats:
    """start, start + gains[0], start + gains[0] + gains[1], …: float64 [N + 1]."""
    sums = np.empty(len(gains) + 1)
    sums[0] = 0.0
    np.cumsum(gains, out=sums[1:])
    sums += start
    return sums


def depths_of(owners: Ints, requests: int) -> Ints:
    """ℓ_r int64 [R] of admitted candidates."""
    return np.bincount(owners, minlength=requests)


def places_within(groups: Ints, count: int) -> Ints:
    """How many members of its group, of `count`, come before each, int64 [N]."""
    order = np.argsort(groups.astype(np.int16) if count < 1 << 15 else groups, kind="stable")  # radix for 16 bits
    sizes = np.bincount(groups, minlength=count)
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(sizes.cumsum() - sizes, sizes)
    return places
