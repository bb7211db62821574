"""Properties of the prefix schedulers on random states: limits, optimality, order, and what they may not look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.errors import ConfigurationError
from outrider.scheduling import (
    Algorithm1,
    Asynchronous,
    Budget,
    Constrained,
    DepthTable,
    FixedDepth,
    NoDrafts,
    PrefixScheduler,
    Requests,
    RoundCosts,
    StepCostCurve,
    Threshold,
    hopeless,
    needed_tokens,
    scheduler_named,
)
from outrider.scheduling.asynchronous import best_budget, within_allowances
from outrider.scheduling.scheduler import Bools, Floats, Ints, candidates
from support.worlds import random_curve

SCHEDULERS: tuple[PrefixScheduler, ...] = (
    NoDrafts(), FixedDepth(1), FixedDepth(5), Threshold(0.4), DepthTable(), Algorithm1(), Asynchronous(), Constrained(),
)  # fmt: skip
LIMITED: tuple[PrefixScheduler, ...] = (Asynchronous(), Constrained())
"""Those that keep to tenants' allowances."""

SEEDS = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@dataclass(frozen=True)
class State:
    """What one round is scheduled from; survival is live and tells of everyone."""

    requests: Requests
    costs: RoundCosts
    survival: Floats

    def live(self, drafted: Budget) -> Floats:
        return self.survival * drafted.drafted[:, None]

    def depths(self, scheduler: PrefixScheduler) -> Ints:
        budget = scheduler.budget(self.requests, self.costs)
        return scheduler.fill(self.requests, self.costs, budget, self.live(budget))


def state(seed: int, *, kind: str = "", plain: bool = False) -> State:
    """A random state without equal values.

    A `plain` one has no floors, weights, allowances, lags or prompts beside, and room for everything.
    """
    rng = np.random.default_rng(seed)
    size, slots, tenants = int(rng.integers(1, 13)), int(rng.integers(1, 8)), int(rng.integers(1, 5))
    others = 0 if plain else int(rng.choice((0, 0, 5, 40)))
    draft_s = rng.choice((0.0, 0.1, 0.5)) * rng.random(2)
    scale = float(rng.choice((0.1, 1.0)))
    curve = random_curve(rng, 1, others + size * (1 + slots), kind)
    step = StepCostCurve(curve.tokens, tuple(1 + scale * (s - 1) for s in curve.seconds), curve.version)
    costs = RoundCosts(
        step,
        draft=lambda requests: np.asarray(draft_s[0] + draft_s[1] * requests, dtype=np.float64),
        plain_s=float(rng.random() * 0.1),
        drafted_s=float(rng.random() * 0.2),
        append_row_s=0.0 if plain else 0.01,
        other_tokens=others,
    )
    expected, survival = (np.cumprod(rng.random((size, slots)) ** 0.4, axis=1, dtype=np.float64) for _ in range(2))
    requests = Requests(caps=rng.integers(0, slots + 1, size), weights=np.ones(size), expected=expected)
    if not plain:
        requests = replace(
            requests,
            weights=rng.random(size) + 0.5,
            lag_tokens=rng.integers(0, 9, size),
            remaining=rng.integers(1, 99, size),
            needed=np.where(rng.random(size) < 0.4, rng.random(size) * 4, 0.0),
            tenants=rng.integers(0, tenants, size),
            allowances=np.where(rng.random(tenants) < 0.5, rng.integers(0, 2 * slots, tenants), -1),
            probes=rng.random(size) < 0.1,
            room_tokens=int(rng.choice((-1, rng.integers(0, 2 * size + 1)))),
        )
    return State(requests, costs, survival)


def verified(depths: Ints, requests: Requests) -> Ints:
    """Draft tokens by tenant."""
    return np.bincount(requests.tenants, depths, minlength=len(requests.allowances)).astype(np.int64)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: s.name)
@given(SEEDS)
@quick
def test_depths_are_within_caps_and_nobody_undrafted_has_any(scheduler: PrefixScheduler, seed: int) -> None:
    drawn = state(seed)
    budget = scheduler.budget(drawn.requests, drawn.costs)
    depths = scheduler.fill(drawn.requests, drawn.costs, budget, drawn.live(budget))
    assert (depths >= 0).all()
    assert (depths <= np.where(budget.drafted, drawn.requests.caps, 0)).all()
    assert not budget.drafted[drawn.requests.caps == 0].any()


@pytest.mark.parametrize("scheduler", LIMITED, ids=lambda s: s.name)
@given(SEEDS)
@quick
def test_allowances_are_never_exceeded(scheduler: PrefixScheduler, seed: int) -> None:
    """Not even by floors."""
    drawn = state(seed)
    spent = verified(drawn.depths(scheduler), drawn.requests)
    assert (spent <= drawn.requests.allowances)[drawn.requests.allowances >= 0].all()


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: s.name)
@given(SEEDS)
@quick
def test_no_more_is_verified_than_the_step_has_room_for(scheduler: PrefixScheduler, seed: int) -> None:
    """Not even for floors, allowances unused or probes."""
    drawn = state(seed)
    for room in range(6):
        tight = replace(drawn, requests=replace(drawn.requests, room_tokens=room))
        assert tight.depths(scheduler).sum() <= room


@pytest.mark.parametrize("allowance", [-1, 6])
@pytest.mark.parametrize("scheduler", [Algorithm1(), *LIMITED], ids=lambda s: s.name)
def test_weight_decides_whose_drafts_are_verified_where_not_all_can_be(
    scheduler: PrefixScheduler, allowance: int
) -> None:
    """Of the step's room, and of what one tenant may have verified."""
    free = RoundCosts(StepCostCurve((1, 1000), (1.0, 1.03), "nearly free"))
    survival = np.tile(np.cumprod(np.full(7, 0.8)), (3, 1))
    alike = Requests(np.full(3, 7), np.ones(3), survival, room_tokens=6)
    if allowance >= 0 and scheduler in LIMITED:
        alike = replace(alike, room_tokens=-1, tenants=np.zeros(3, dtype=np.int64), allowances=np.array([allowance]))
    weighted = replace(alike, weights=np.array([1.0, 4.0, 0.5]))
    assert State(alike, free, survival).depths(scheduler).tolist() == [2, 2, 2]
    assert State(weighted, free, survival).depths(scheduler).tolist() == [0, 6, 0]


@pytest.mark.parametrize("scheduler", [Algorithm1(), *LIMITED], ids=lambda s: s.name)
@given(SEEDS)
@quick
def test_a_depth_does_not_know_what_lies_behind_it(scheduler: PrefixScheduler, seed: int) -> None:
    """The survival of slot ℓ + 1 may stop a request at ℓ; that of ℓ + 2 was drawn later and changes nothing."""
    drawn = state(seed)
    budget = scheduler.budget(drawn.requests, drawn.costs)
    live = drawn.live(budget)
    depths = scheduler.fill(drawn.requests, drawn.costs, budget, live)
    slots = np.arange(live.shape[1])
    behind = slots > depths[:, None]
    for fate in (0.0, 1.0):
        last = np.take_along_axis(live, np.minimum(depths, live.shape[1] - 1)[:, None], axis=1)
        changed = np.where(behind, fate * last, live)
        assert scheduler.fill(drawn.requests, drawn.costs, budget, changed).tolist() == depths.tolist()


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: s.name)
@given(SEEDS)
@quick
def test_filling_reads_no_forecast(scheduler: PrefixScheduler, seed: int) -> None:
    """The engine does not make one for it, and hands on this round's survival in its place."""
    drawn = state(seed)
    budget = scheduler.budget(drawn.requests, drawn.costs)
    live = drawn.live(budget)
    depths = scheduler.fill(drawn.requests, drawn.costs, budget, live)
    told = replace(drawn.requests, expected=live)
    assert scheduler.fill(told, drawn.costs, budget, live).tolist() == depths.tolist()


@given(SEEDS)
@quick
def test_asynchronous_spends_its_budget(seed: int) -> None:
    """Or all there is."""
    drawn = state(seed)
    budget = Asynchronous().budget(drawn.requests, drawn.costs)
    live = drawn.live(budget)
    _, owners = candidates(drawn.requests.weights[:, None] * live, drawn.requests.caps)
    there_is = int(np.count_nonzero(within_allowances(owners, drawn.requests)))
    assert Asynchronous().fill(drawn.requests, drawn.costs, budget, live).sum() == min(budget.tokens, there_is)


@pytest.mark.parametrize("kind", ["convex", "steep"])
@given(SEEDS)
@quick
def test_constrained_without_constraints_is_algorithm_1_on_a_convex_curve(kind: str, seed: int) -> None:
    drawn = state(seed, kind=kind, plain=True)
    budget = Algorithm1().budget(drawn.requests, drawn.costs)
    asked = (drawn.requests, drawn.costs, budget, drawn.live(budget))
    assert Constrained().fill(*asked).tolist() == Algorithm1().fill(*asked).tolist()


@given(SEEDS)
@quick
def test_floors_are_met_where_caps_and_allowances_let_them(seed: int) -> None:
    drawn = state(seed)
    requests = replace(drawn.requests, allowances=np.full(len(drawn.requests.allowances), -1), room_tokens=-1)
    budget = Constrained().budget(requests, drawn.costs)
    behind = (requests.needed > 1) & (requests.caps > 0)
    assert not behind.any() or budget.drafted[behind].all() or not hurried(drawn, behind)
    depths = Constrained().fill(requests, drawn.costs, budget, drawn.live(budget))
    reached = 1.0 + np.where(np.arange(drawn.survival.shape[1]) < depths[:, None], drawn.survival, 0.0).sum(axis=1)
    assert ((reached >= requests.needed) | (depths == requests.caps) | ~budget.drafted).all()


def hurried(drawn: State, behind: Bools) -> bool:
    """Whether those behind get their tokens faster by rounds that verify what they need, from the definitions."""
    requests, costs = drawn.requests, drawn.costs
    wanted = [
        min(cap, math.ceil(need) - 1) for cap, need in zip(requests.caps[behind], requests.needed[behind], strict=True)
    ]
    emitted = sum(1 + row[:slots].sum() for row, slots in zip(requests.expected[behind], wanted, strict=True))
    verify_s = costs.verify_s(len(requests), sum(wanted))
    drafted_s = costs.drafted_s + costs.draft(np.array([len(wanted)]))[0] + verify_s[-1]
    return bool(emitted / drafted_s > len(wanted) / (costs.plain_s + verify_s[0]))


def test_the_late_are_drafted_for_only_where_that_makes_them_faster() -> None:
    late = Requests(np.array([3, 3]), np.ones(2), np.full((2, 3), 0.5), needed=np.array([2.5, 0.0]))
    cheap, dear = StepCostCurve((1, 100), (1.0, 1.1), "cheap"), StepCostCurve((1, 100), (1.0, 100.0), "dear")
    assert best_budget(late, RoundCosts(cheap)).drafted[0]
    assert not best_budget(late, RoundCosts(dear)).drafted.any()


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: s.name)
@given(SEEDS)
@quick
def test_the_order_of_the_requests_is_immaterial(scheduler: PrefixScheduler, seed: int) -> None:
    drawn = state(seed)
    old = drawn.requests
    turn = np.random.default_rng(seed).permutation(len(old))
    turned = replace(
        old, caps=old.caps[turn], weights=old.weights[turn], expected=old.expected[turn], tenants=old.tenants[turn],
        lag_tokens=old.lag_tokens[turn], remaining=old.remaining[turn], needed=old.needed[turn],
        probes=old.probes[turn],
    )  # fmt: skip
    again = State(turned, drawn.costs, drawn.survival[turn])
    assert again.depths(scheduler).tolist() == drawn.depths(scheduler)[turn].tolist()


def theta(drawn: State, drafted: list[int], tokens: int) -> float:
    """Expected Θ of drafting for these and verifying so many, from the definitions."""
    requests, costs = drawn.requests, drawn.costs
    start_s = float(costs.step.seconds_at(len(requests)))
    beside = costs.other_tokens + len(requests)
    verify_s = start_s + float(costs.step.seconds_at(beside + tokens)) - float(costs.step.seconds_at(beside))
    emitted = float(requests.weights.sum())
    if not drafted:
        return emitted / (costs.plain_s + verify_s)
    left = {t: (int(a) if a >= 0 else 10**9) for t, a in enumerate(requests.allowances)}
    tokens = tokens if requests.room_tokens < 0 else min(tokens, requests.room_tokens)
    slots = [(requests.weights[r] * requests.expected[r, j], r) for r in drafted for j in range(int(requests.caps[r]))]
    lag_s, spent = sum(lag_of(drawn, r) for r in drafted), 0
    for gain, r in sorted(slots, reverse=True):
        tenant = int(requests.tenants[r]) if len(requests.tenants) else -1
        if spent < tokens and left.get(tenant, 1) > 0:
            emitted, spent = emitted + gain, spent + 1
            left[tenant] = left.get(tenant, 10**9) - 1
    return emitted / (costs.drafted_s + float(costs.draft(np.array([len(drafted)]))[0]) + lag_s + verify_s)


def lag_of(drawn: State, request: int) -> float:
    """Seconds a round for the context rows that the drafter lacks."""
    requests = drawn.requests
    if not len(requests.lag_tokens):
        return 0.0
    rounds = requests.remaining[request] / (1.0 + requests.expected[request].sum())
    return float(requests.lag_tokens[request] * drawn.costs.append_row_s / max(rounds, 1.0))


def in_order_of_worth(drawn: State) -> tuple[list[int], int]:
    """Requests as they are taken in, and how many of them have to be."""
    requests, rate = drawn.requests, theta(drawn, [], 0)
    behind = (requests.needed > 1) & (requests.caps > 0) if len(requests.needed) else np.zeros(len(requests), bool)
    late = behind if behind.any() and hurried(drawn, behind) else np.zeros(len(requests), bool)
    must = {r for r in range(len(requests)) if (len(requests.probes) and requests.probes[r]) or late[r]}

    def worth(r: int) -> float:
        gain = requests.weights[r] * requests.expected[r, : int(requests.caps[r])].sum()
        return float(gain) - rate * lag_of(drawn, r)

    able = [r for r in range(len(requests)) if requests.caps[r] > 0]
    return sorted(able, key=lambda r: (r not in must, -worth(r))), sum(r in must for r in able)


@pytest.mark.parametrize("plain", [True, False])
@given(SEEDS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_no_budget_that_was_considered_is_better(plain: bool, seed: int) -> None:
    """Brute force over nobody, everybody, their halves in order of worth, and every number of tokens."""
    drawn = state(seed, plain=plain)
    budget = best_budget(drawn.requests, drawn.costs)
    found = theta(drawn, np.flatnonzero(budget.drafted).tolist(), budget.tokens)
    order, forced = in_order_of_worth(drawn)
    sizes = {max(len(order) >> halvings, forced) for halvings in range(5)} | ({0} if not forced else set())
    most = int(drawn.requests.caps.sum())
    for size in sizes & set(range(len(order) + 1)):
        for tokens in range(most + 1 if size else 1):
            assert found >= theta(drawn, order[:size], tokens) - 1e-9, (size, tokens, budget)
    assert set(order[:forced]) <= set(np.flatnonzero(budget.drafted).tolist())


@given(SEEDS)
@quick
def test_with_free_drafts_the_number_of_tokens_is_the_best_there_is(seed: int) -> None:
    """Whatever the shape of the curve."""
    drawn = state(seed, plain=True)
    drawn = replace(drawn, costs=RoundCosts(drawn.costs.step))
    budget = best_budget(drawn.requests, drawn.costs)
    everyone = list(range(len(drawn.requests)))
    best = max(theta(drawn, everyone, tokens) for tokens in range(int(drawn.requests.caps.sum()) + 1))
    assert theta(drawn, np.flatnonzero(budget.drafted).tolist(), budget.tokens) == pytest.approx(best, rel=1e-12)


def test_a_stale_budget_looks_past_an_edge_where_early_stopping_sticks() -> None:
    """Steps of 8 tokens: the ninth token costs half a step more, and those up to the sixteenth nothing."""
    stairs = StepCostCurve((1, 8, 9, 16, 17, 24), (1.0, 1.0, 1.5, 1.5, 9.0, 9.0), "stairs")
    survival = np.tile(np.cumprod(np.full(7, 0.9)), (4, 1))
    requests = Requests(caps=np.full(4, 7), weights=np.ones(4), expected=survival)
    drawn = State(requests, RoundCosts(stairs), survival)
    assert drawn.depths(Algorithm1()).sum() == 4
    assert drawn.depths(Asynchronous()).sum() == 12
    assert theta(drawn, [0, 1, 2, 3], 12) > theta(drawn, [0, 1, 2, 3], 4)


@pytest.mark.parametrize("scheduler", [Algorithm1(), *LIMITED], ids=lambda s: s.name)
@given(SEEDS)
@quick
def test_the_budget_of_a_request_falls_as_load_grows(scheduler: PrefixScheduler, seed: int) -> None:
    """A convex curve, and more and more of the same requests."""
    rng = np.random.default_rng(seed)
    row = np.cumprod(rng.random(7) ** 0.4)
    curve = random_curve(rng, 1, 40, "convex")
    depths = []
    for size in (1, 2, 4, 8, 16, 32):
        rows = np.tile(row, (size, 1))
        requests = Requests(caps=np.full(size, 7), weights=np.ones(size), expected=rows)
        depths.append(float(State(requests, RoundCosts(curve), rows).depths(scheduler).mean()))
    assert depths == sorted(depths, reverse=True)


@given(SEEDS)
@quick
def test_the_hull_is_convex_below_the_curve_and_touches_its_ends(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curve = random_curve(rng, int(rng.integers(1, 9)), int(rng.integers(10, 60)))
    sizes = np.arange(curve.tokens[0], curve.tokens[-1] + 1)
    hull, raw = curve.hull.seconds_at(sizes), curve.seconds_at(sizes)
    assert (hull <= raw + 1e-12).all()
    assert (np.diff(hull, 2) >= -1e-12).all()
    assert (hull[0], hull[-1]) == (raw[0], raw[-1])
    assert np.isin(curve.hull.tokens, curve.tokens).all()
    if (np.diff(raw, 2) >= 0).all():
        assert hull == pytest.approx(raw)


PACE = st.floats(0.01, 1.0)


@given(PACE, st.integers(1, 500), st.floats(0, 100), st.floats(0.001, 2))
@quick
def test_a_deficit_is_carried(target: float, emitted: int, ago: float, round_s: float) -> None:
    """What a round emits too little, the next one needs more; a token too many is one less."""
    targets = np.array([target, np.inf])

    def needed(now: float, tokens: int) -> Floats:
        return needed_tokens(now, np.zeros(2), np.full(2, tokens), targets, round_s, margin=0.0)

    now = needed(ago, emitted)
    assert now[1] == 0
    assert now[0] == pytest.approx(max(1 + (ago + round_s) / target - emitted, 0))
    later, more = needed(ago + round_s, emitted), needed(ago, emitted + 1)
    assert later[0] >= now[0]
    if now[0] > 1:
        assert later[0] - now[0] == pytest.approx(round_s / target)
        assert now[0] - more[0] == pytest.approx(1.0)


@given(PACE, st.floats(0.001, 2), st.lists(st.integers(1, 9), min_size=1, max_size=30))
@quick
def test_whoever_emits_what_is_needed_keeps_the_target(target: float, round_s: float, extra: list[int]) -> None:
    """Token by token: after every round the mean time per token is at most the target less its margin."""
    now, emitted = 0.0, 1
    for more in extra:
        needed = needed_tokens(now, np.zeros(1), np.array([emitted]), np.array([target]), round_s)
        emitted += max(int(np.ceil(needed[0])), 1) + (more == 9)
        now += round_s
        assert now / (emitted - 1) <= target * 0.9 * (1 + 1e-9)


@given(st.floats(1.0, 8.0), st.floats(0.0, 20.0), PACE, st.floats(0.001, 2), st.integers(1, 200))
@quick
def test_hopeless_is_who_ends_late_at_its_best(
    reachable: float, needed: float, target: float, round_s: float, remaining: int
) -> None:
    lacks, reaches, targets = np.array([needed]), np.array([reachable]), np.array([target])
    lost = bool(hopeless(lacks, reaches, targets, round_s, np.array([remaining]))[0])
    pace = target * 0.9
    rounds = remaining / reachable
    at_best = needed - reachable - rounds * max(reachable - round_s / pace, 0.0)
    if abs(at_best) > 1e-9:
        assert lost == (at_best > 0)
    if needed <= reachable:
        assert not lost


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, Threshold(0.123456789), DepthTable(((3, 2), (9, 0)))])
def test_a_scheduler_is_found_by_its_name(scheduler: PrefixScheduler) -> None:
    assert scheduler_named(scheduler.name) == scheduler


@pytest.mark.parametrize(
    "name",
    [
        "", "best", "fixed", "fixed:", "fixed:0", "fixed:-1", "fixed:2.5", "threshold", "threshold:0", "threshold:1.5",
        "threshold:nan", "table:2", "table:4=1,2=3", "table:0=1", "table:2=-1", "table:2=1,2=3", "constrained:1",
            ],
)  # fmt: skip
def test_another_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"constrained") as refused:
        scheduler_named(name)
    assert refused.value.param == "scheduler"
