"""Which schedulers keep the target's distribution, proven by exact enumeration of toy worlds.

Under rejection a depth must not depend on the token it admits or on later ones (DSpark, arXiv 2607.05147, Appendix A).
Under coupled verification a run is the target's own, token by token, whatever the scheduler does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from outrider.scheduling import (
    Algorithm1,
    Asynchronous,
    Constrained,
    DepthTable,
    FixedDepth,
    NoDrafts,
    PrefixScheduler,
    StepCostCurve,
    Threshold,
)
from outrider.scheduling.scheduler import Floats
from outrider.speculation import CoupledRule
from support.enumeration import Enumeration, admitted_depths, error_of, target_joint
from support.forbidden import (
    AbandonsPoorBlocks,
    CappedFloors,
    CutsAtUnchoosable,
    LiveArgmax,
    LiveBudget,
    ReleasedFloors,
    Retracts,
    TiesByToken,
    WholeStairs,
)
from support.keyed_noise import keyed_joint
from support.worlds import Tokens, World, plain_world, random_world

ADMISSIBLE: tuple[PrefixScheduler, ...] = (
    NoDrafts(),
    FixedDepth(1),
    FixedDepth(3),
    Threshold(0.5),
    DepthTable(((1, 3), (2, 2))),
    Algorithm1(),
    Asynchronous(),
    Constrained(),
)
FORBIDDEN: tuple[PrefixScheduler, ...] = (
    LiveArgmax(), LiveBudget(), WholeStairs(), AbandonsPoorBlocks(), Retracts(), CappedFloors(), ReleasedFloors(),
    TiesByToken(), CutsAtUnchoosable(1),
)  # fmt: skip
EXACT = 1e-12
BIASED = 1e-3

SHAPES = {
    "two tokens, two slots": (2, 2, 40),
    "three tokens, two slots": (3, 2, 4),
    "two tokens, three slots": (2, 3, 6),
}

P, Q = (0.7, 0.3), (0.5, 0.5)
LEAKED = (0.85, 0.15)
CLIFF = StepCostCurve((1, 2, 3), (1.0, 1 / 0.5, 1 / 0.45), "Appendix A: SPS = (1.0, 0.5, 0.45)")
STEEP = StepCostCurve((1, 9), (1.0, 9.0), "a token costs what a round does")
CHEAP = StepCostCurve((1, 9), (1.0, 1.1), "tokens cost hardly anything")
APPENDIX = plain_world(P, Q, [[0.8, (0.9, 0.0)]], CLIFF, length=3)


def first_token(joint: Floats, world: World) -> list[float]:
    """Distribution of the first request's first token."""
    found: list[float] = joint.reshape(world.vocab, -1).sum(axis=1).tolist()
    return found


def worlds(shape: str) -> list[World]:
    vocab, slots, count = SHAPES[shape]
    return [random_world(seed, vocab=vocab, slots=slots) for seed in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strategy", ADMISSIBLE, ids=lambda s: s.name)
def test_admissible_strategies_keep_the_joint_distribution(strategy: PrefixScheduler, shape: str) -> None:
    assert strategy.admissible
    verified = 0
    for seed, world in enumerate(worlds(shape)):
        run = Enumeration(world, strategy)
        assert np.abs(run.joint() - target_joint(world)).max() < EXACT, f"world {seed}"
        verified = max(verified, run.verified_tokens)
    assert (verified > 1) == (strategy.name != "none")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strategy", [Algorithm1(), Asynchronous(), Constrained()], ids=lambda s: s.name)
def test_a_budget_may_be_used_for_more_than_one_round(strategy: PrefixScheduler, shape: str) -> None:
    """It is staler then, and no less admissible."""
    for seed, world in enumerate(worlds(shape)[::2]):
        assert error_of(world, strategy, reuses_budget=True) < EXACT, f"world {seed}"


def test_three_rounds_are_as_exact_as_two() -> None:
    for seed, strategy in ((0, Asynchronous()), (1, Constrained())):
        assert error_of(random_world(seed, rounds=3), strategy) < EXACT


@pytest.mark.parametrize("strategy", [LiveArgmax(), LiveBudget(), WholeStairs(), ReleasedFloors()])
def test_the_same_random_worlds_show_a_leak(strategy: PrefixScheduler) -> None:
    """What the proofs above are worth."""
    assert max(error_of(world, strategy) for world in worlds("two tokens, two slots")) > BIASED


@pytest.mark.parametrize("strategy", [Algorithm1(), Asynchronous(), Constrained(), FixedDepth(1), Threshold(0.5)])
def test_appendix_a_early_stopping_and_stale_budgets_are_unbiased(strategy: PrefixScheduler) -> None:
    joint = Enumeration(APPENDIX, strategy).joint()
    assert first_token(joint, APPENDIX) == pytest.approx(P, abs=EXACT)
    assert np.abs(joint - target_joint(APPENDIX)).max() < EXACT


def floor_s(needed: float) -> float:
    """The TPOT target under which that many tokens are needed in the first round of 1 s."""
    return 1.0 / (0.9 * needed)


ONE_TENANT: dict[str, Any] = {"tenants": np.zeros(2, dtype=np.int64), "allowances": np.ones(1, dtype=np.int64)}
LEAKS: dict[str, tuple[PrefixScheduler, World]] = {
    "live global argmax": (LiveArgmax(), APPENDIX),
    "budget from live confidences": (LiveBudget(), APPENDIX),
    "whole stairs at a time": (WholeStairs(), APPENDIX),
    "poor blocks abandoned after the draft": (AbandonsPoorBlocks(), APPENDIX),
    "an admitted token retracted": (Retracts(), APPENDIX),
    "floors released on live sums": (
        ReleasedFloors(),
        plain_world(P, Q, [[0.8, (0.9, 0.0)]], STEEP, length=3, target_s=np.array([floor_s(2.2)])),
    ),
    "floors capped at live sums, most needed first": (
        CappedFloors(),
        plain_world(
            P, Q, [[0.8, (0.9, 0.0)], [0.9, (0.3, 0.3)]], STEEP, length=3,
            target_s=np.array([floor_s(2.5), floor_s(2.0)]), **ONE_TENANT,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS)
def test_a_depth_that_knows_what_it_admits_is_biased_as_in_appendix_a(leak: str) -> None:
    strategy, world = LEAKS[leak]
    assert not strategy.admissible
    joint = Enumeration(world, strategy).joint()
    assert first_token(joint, world) == pytest.approx(LEAKED, abs=EXACT)
    assert np.abs(joint - target_joint(world)).max() > BIASED
    assert error_of(world, Constrained()) < EXACT


def test_a_live_cap_on_a_floor_leaks_only_by_the_order() -> None:
    """A request alone keeps its distribution: 1 + Σ_{j<k} a_j < 1 + Σ_j a_j says no more than a_k > 0."""
    for seed in range(1, 40, 2):
        assert error_of(random_world(seed, size=1), CappedFloors()) < EXACT


def test_ties_broken_by_token_are_biased() -> None:
    """Two requests, one token to verify, equal confidences: a request's turn depends on its own draft."""
    world = plain_world(P, Q, [[0.8, (0.5, 0.5)]] * 2, CHEAP, length=3)
    assert error_of(world, TiesByToken()) > BIASED
    assert error_of(world, Asynchronous()) < EXACT


def test_a_block_cut_before_a_token_that_may_not_be_chosen_is_biased() -> None:
    """p = (.5, .5, 0), q = (.5, 0, .5): cut there, the bonus from p gives (.75, .25); verified, it is rejected."""
    world = plain_world((0.5, 0.5, 0.0), (0.5, 0.0, 0.5), [[0.8, (0.9,) * 3]], CHEAP, length=3)
    cut = Enumeration(world, CutsAtUnchoosable(2)).joint()
    assert first_token(cut, world) == pytest.approx((0.75, 0.25, 0.0), abs=EXACT)
    assert error_of(world, FixedDepth(2)) < EXACT


@pytest.mark.parametrize("strategy", [Threshold(0.5), Algorithm1()], ids=lambda s: s.name)
def test_a_confidence_that_sees_the_sampled_token_makes_any_scheduler_biased(strategy: PrefixScheduler) -> None:
    """c₁ = q(x₁): .6 of the tokens are verified, the others come from p, which gives .6 + .4·.7 = .88."""
    curve = StepCostCurve((1, 2, 9), (1.0, 1.5, 30.0), "worth it from survival .5")
    world = plain_world(P, (0.6, 0.4), [[(0.6, 0.4), np.zeros((2, 2))]], curve, length=3)
    joint = Enumeration(world, strategy).joint()
    assert first_token(joint, world) == pytest.approx((0.88, 0.12), abs=EXACT)


STAIR = StepCostCurve((2, 3, 5), (1.0, 2.0, 2.0), "three drafts for the price of one")
REDRAWN = plain_world(
    P, Q, [[0.8, (0.9, 0.9), ((0.9, 0.0), (0.9, 0.0))], [0.8, (0.9, 0.9), np.full((2, 2), 0.9)]], STAIR,
    length=5, rounds=2, caps=np.array([3, 0]), expected=np.full((2, 3), 0.1), probes=np.array([True, False]),
)  # fmt: skip
"""The first round is a probe: nothing is verified, and its third confidence tells of the discarded second token. A low
one leaves the second round without a budget."""


def second_token(joint: Floats) -> list[float]:
    """Distribution of the first request's second token in REDRAWN."""
    found: list[float] = joint.reshape(2, 2, -1).sum(axis=(0, 2)).tolist()
    return found


def test_noise_keyed_by_position_makes_a_stale_budget_biased() -> None:
    """The second round draws the discarded position again, with the number that set its budget."""
    joint = keyed_joint(REDRAWN, Asynchronous(), "position")
    assert second_token(joint) == pytest.approx(LEAKED, abs=EXACT)
    assert np.abs(joint - target_joint(REDRAWN)).max() > BIASED


def test_noise_keyed_by_round_does_not() -> None:
    joint = keyed_joint(REDRAWN, Asynchronous(), "round")
    assert np.abs(joint - target_joint(REDRAWN)).max() < EXACT


@pytest.mark.parametrize(
    "strategy", [Constrained(), Asynchronous(), LiveArgmax(), CappedFloors()], ids=lambda s: s.name
)
def test_two_enumerations_agree(strategy: PrefixScheduler) -> None:
    """That of distributions and that of branches of random numbers, also on what is biased."""
    for seed in (2, 3):
        world = random_world(seed)
        world = replace(world, target=[side[:3] for side in world.target])
        joint = keyed_joint(world, strategy, "round")
        assert np.abs(joint - Enumeration(world, strategy).joint()).max() < EXACT
        assert joint.sum() == pytest.approx(1.0, abs=EXACT)


def race(noise: Floats, probabilities: Floats) -> int:
    """argmin E/prob: the exponential race that coupled sampling draws by."""
    with np.errstate(divide="ignore"):
        return int((noise / probabilities).argmin())


def coupled_run(world: World, strategy: PrefixScheduler, noise: Floats) -> tuple[list[Tokens], int]:
    """First L tokens of every request, and how many draft tokens were accepted; noise float64 [R, positions, V]."""
    histories: list[Tokens] = [()] * world.size
    expected, accepted_tokens = world.expected, 0
    for index in range(world.length):
        active = [r for r in range(world.size) if len(histories[r]) < world.length]
        if not active:
            break
        round_index = min(index, world.rounds - 1)
        requests = world.requests(round_index, active, list(map(len, histories)), expected)
        budget = strategy.budget(requests, world.costs)
        blocks = []
        for row, r in enumerate(active):
            block: Tokens = ()
            for slot in range(world.slots if budget.drafted[row] else 0):
                place = len(histories[r]) + slot
                block += (race(noise[r, place], world.draft[r][place][histories[r] + block]),)
            blocks.append(block)
        survival = np.array([world.survival(round_index, r, block) for r, block in zip(active, blocks, strict=True)])
        depths = admitted_depths(strategy, requests, world.costs, budget, survival, tuple(blocks))
        expected = expected.copy()
        expected[active] = np.where(budget.drafted[:, None], survival, expected[active])
        for r, block, depth in zip(active, blocks, depths, strict=True):
            seen = [histories[r] + block[:slot] for slot in range(depth + 1)]
            chosen = [race(noise[r, len(h)], world.target[r][len(h)][h]) for h in seen]
            emitted, accepted = CoupledRule().emit(block[:depth], chosen)
            histories[r] += tuple(emitted)
            accepted_tokens += accepted
    return histories, accepted_tokens


def plain_run(world: World, noise: Floats) -> list[Tokens]:
    """Autoregressive sampling of the target under the same noise."""
    histories: list[Tokens] = [()] * world.size
    for place in range(world.length):
        histories = [(*h, race(noise[r, place], world.target[r][place][h])) for r, h in enumerate(histories)]
    return histories


COUPLED_WORLDS: dict[str, Any] = {
    **{f"random {seed}": random_world(seed, vocab=3) for seed in range(5)},
    **{leak: world for leak, (_, world) in LEAKS.items()},
    "redrawn": REDRAWN,
}


@pytest.mark.parametrize("strategy", ADMISSIBLE + FORBIDDEN, ids=lambda s: s.name)
def test_coupled_runs_are_the_targets_own_under_any_scheduler(strategy: PrefixScheduler) -> None:
    """Pathwise: for every table of noise the tokens are those of plain sampling, so the joint distribution is, too."""
    accepted_tokens = 0
    for place, world in enumerate(COUPLED_WORLDS.values()):
        rng = np.random.default_rng(place)
        for _ in range(25):
            noise = rng.exponential(size=(world.size, world.length + world.slots, world.vocab))
            emitted, accepted = coupled_run(world, strategy, noise)
            assert emitted == plain_run(world, noise)
            accepted_tokens += accepted
    assert (accepted_tokens > 0) == (strategy.name != "none")
