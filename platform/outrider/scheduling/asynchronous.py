"""The asynchronous scheduler: whom to draft for and how much to verify from the last rounds, where from live ones.

The budget is what maximises Θ on confidences that are at least one round old, so the search may be global: stairs of
the curve, at which early stopping sticks, are no obstacle, and the budget is known before the draft is (DSpark,
section 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from outrider.scheduling.scheduler import (
    Bools,
    Budget,
    Floats,
    Ints,
    Requests,
    RoundCosts,
    candidates,
    depths_of,
    places_within,
    running,
)

__all__ = ["Asynchronous", "best_budget", "within_allowances"]


@dataclass(frozen=True, slots=True)
class Asynchronous:
    """Verifies K draft tokens, K from earlier rounds, of the requests that live confidences favour."""

    name: str = "asynchronous"
    admissible: bool = True
    explores: bool = True
    paces: bool = False

    def budget(self, requests: Requests, costs: RoundCosts) -> Budget:
        """The best D and K on what earlier rounds foretell."""
        return best_budget(requests, costs)

    def fill(self, requests: Requests, costs: RoundCosts, budget: Budget, survival: Floats) -> Ints:
        """The K candidates of largest live w·a: that (r, k) is among them depends on x_{r,<k} and on other requests."""
        del costs
        _, owners = candidates(requests.weights[:, None] * survival, requests.caps)
        return depths_of(owners[within_allowances(owners, requests)][: budget.tokens], len(requests))


def best_budget(requests: Requests, costs: RoundCosts) -> Budget:
    """The set D of requests and the number K of draft tokens that maximise expected Θ on what is known beforehand.

        Θ(D, K) = (Σ_r w_r + Σ of the K largest w_r·a_{r,j}, r ∈ D) / (host + T_draft(D) + T(R + K)),  K = 0 for D = ∅

    Requests enter D in the order of what drafting for them can gain, w_r·Σ_j a_{r,j}, less what their lag takes off.
    Everyone is tried as D, then half of that, and so on, each with all K at once: O(R·γ·log R). Requests that are
    probed, or behind their TPOT target and faster for it, come first and are in every D; without any, D may be empty.
    """
    value = requests.weights[:, None] * requests.expected
    inside_caps = np.arange(value.shape[1]) < requests.caps[:, None]
    gain = np.where(inside_caps, value, 0.0).sum(axis=1)
    plain_emitted = float(requests.weights.sum())
    plain_rate = plain_emitted / (costs.plain_s + costs.step.step_s(max(len(requests), 1)))
    lag_s = _lag_s(requests, costs)
    ordered = np.flatnonzero(gain > 0)
    must = _must(requests, costs)[ordered]
    worth = gain[ordered] - plain_rate * lag_s[ordered]
    ordered = ordered[np.lexsort((ordered, -worth, ~must))]
    forced = int(np.count_nonzero(must))
    if not len(ordered):
        return Budget(np.zeros(len(requests), dtype=np.bool_), tokens=0)

    sizes = _sizes(len(ordered), forced)
    rank = np.full(len(requests), len(ordered))
    rank[ordered] = np.arange(len(ordered))
    gains, owners = candidates(value, np.where(rank < len(ordered), requests.caps, 0))
    verify_s = costs.verify_s(len(requests), len(gains))
    plain = plain_emitted / (costs.plain_s + float(verify_s[0]))
    best, reached = -np.inf if forced else plain, 0.0
    found = Budget(np.zeros(len(requests), dtype=np.bool_), tokens=0)
    draft_s = costs.draft(sizes) + lag_s[ordered].cumsum()[sizes - 1]
    limit = (plain_emitted + gain[ordered].cumsum()[sizes - 1]) / (costs.drafted_s + draft_s + verify_s[0])
    for size, seconds, most in zip(sizes.tolist(), draft_s.tolist(), limit.tolist(), strict=True):
        if most <= best:
            reached = max(reached, most)
            continue
        inside = np.flatnonzero(rank[owners] < size)
        gains, owners = gains[inside], owners[inside]
        admitted = gains[within_allowances(owners, requests)]
        emitted = running(plain_emitted, admitted)
        theta = emitted / (costs.drafted_s + seconds + verify_s[: len(emitted)])
        tokens = int(theta.argmax())
        reached = max(reached, float(theta[tokens]))
        if theta[tokens] > best:
            best, found = float(theta[tokens]), Budget(rank < size, tokens, seconds)
    return replace(found, gain=reached / plain)


def within_allowances(owners: Ints, requests: Requests) -> Bools:
    """Which candidates, looked at in this order, their tenants' allowances and the step's room admit, bool [N].

    Those before it alone decide on each, so a prefix stays a prefix and nothing looks ahead.
    """
    within: Bools = np.ones(len(owners), dtype=np.bool_)
    if (requests.allowances >= 0).any():
        tenants = requests.tenants[owners]
        allowed = np.where(requests.allowances >= 0, requests.allowances, len(owners))
        within = np.asarray(places_within(tenants, len(allowed)) < allowed[tenants], dtype=np.bool_)
    if 0 <= requests.room_tokens < len(owners):
        within &= within.cumsum() <= requests.room_tokens
    return within


def _sizes(most: int, forced: int) -> Ints:
    """How many requests to consider drafting for, int64, descending: `most` and halves of it, `forced` at least."""
    sizes = {max(most >> halvings, forced, 1) for halvings in range(most.bit_length())}
    return np.array(sorted(sizes, reverse=True), dtype=np.int64)


def _lag_s(requests: Requests, costs: RoundCosts) -> Floats:
    """Seconds of catching up per round, spread over the rounds a request has left, float64 [R]."""
    if not len(requests.lag_tokens) or costs.append_row_s == 0:
        return np.zeros(len(requests))
    rounds = requests.remaining / (1.0 + requests.expected.sum(axis=1)) if len(requests.remaining) else 1.0
    return np.asarray(requests.lag_tokens * costs.append_row_s / np.maximum(rounds, 1.0))


def _must(requests: Requests, costs: RoundCosts) -> Bools:
    """Requests that are drafted for whatever others lose by it, bool [R].

    Those behind their TPOT target are among them only where they get faster: their own tokens over the time of a round
    that verifies what they need, against one token over a plain round.
    """
    must = requests.probes if len(requests.probes) else np.zeros(len(requests), dtype=np.bool_)
    if not len(requests.needed):
        return must
    behind = (requests.needed > 1.0) & (requests.caps > 0)
    count = int(np.count_nonzero(behind))
    if not count:
        return must
    slots = np.minimum(requests.caps[behind], np.ceil(requests.needed[behind]) - 1).astype(np.int64)
    ahead = np.arange(requests.expected.shape[1]) < slots[:, None]
    emitted = count + float(np.where(ahead, requests.expected[behind], 0.0).sum())
    verify_s = costs.verify_s(len(requests), int(slots.sum()))
    drafted_s = costs.drafted_s + float(costs.draft(np.array([count]))[0] + verify_s[-1])
    faster = emitted / drafted_s > count / (costs.plain_s + float(verify_s[0]))
    return must | behind if faster else must
