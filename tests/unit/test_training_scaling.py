"""Temperatures and maps on synthetic rounds whose true chances are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.scheduling.calibration import Calibration
from outrider.scheduling.fitting import MAP_POINTS, ece, fit_maps, fit_temperatures, isotonic
from outrider.training.rounds import Rounds
from outrider.training.scaling import judge, reliability, split_prompts

GRID = np.geomspace(0.25, 4.0, 33)


def synthetic(count: int, true: list[float], seed: int, left: int | None = None, spread: float = 1.5) -> Rounds:
    """Rounds whose slot k survives with σ(z_k/T_k); `left` of None is far from the end, else 1…left at random."""
    rng = np.random.default_rng(seed)
    gamma = len(true)
    logits = rng.normal(1.0, spread, (count, gamma))
    alive = rng.random((count, gamma)) < 1 / (1 + np.exp(-logits / np.array(true)))
    run = alive.cumprod(axis=1).sum(axis=1)
    ends = np.full(count, 99) if left is None else rng.integers(1, left + 1, count)
    run = np.minimum(run, ends)
    return Rounds(np.arange(count) // 20, run, ends, np.full(count, gamma), logits.astype(np.float32))


def test_known_temperatures_are_recovered() -> None:
    true = [0.5, 2.0, 1.0]
    found = fit_temperatures(synthetic(60_000, true, 1), GRID, 15)
    np.testing.assert_allclose(np.log(found), np.log(true), atol=0.2)


def test_holdout_error_falls_to_what_chance_gives() -> None:
    true = [0.6, 1.8, 2.5, 0.7]
    rounds = synthetic(40_000, true, 2)
    fit, held = split_prompts(rounds.prompt.tolist(), 0.5, 3)
    assert not set(fit) & set(held)
    assert len(fit) == len(held) == 1000
    found = fit_temperatures(rounds.of(fit), GRID, 15)
    before, after = judge(rounds.of(held), None, 15), judge(rounds.of(held), found, 15)
    assert after["mean_ece"] < 0.4 * before["mean_ece"]
    assert after["mean_ece"] < 2.5 * after["mean_floor"]
    assert after["mean_brier"] < before["mean_brier"]
    assert after["mean_auc"] > 0.7


def test_censored_rounds_do_not_bias() -> None:
    true = [1.0, 0.7, 1.5, 1.0]
    whole, cut = synthetic(60_000, true, 4), synthetic(60_000, true, 4, left=5)
    a, b = fit_temperatures(whole, GRID, 15), fit_temperatures(cut, GRID, 15)
    np.testing.assert_allclose(np.log(a), np.log(true), atol=0.2)
    np.testing.assert_allclose(np.log(b), np.log(true), atol=0.3)
    exact = judge(cut, np.array(true), 15)
    for slot in range(4):
        assert exact["ece"][slot] < 3 * exact["floor"][slot]
    # labels of slots past the end would count as failures
    naive = Rounds(cut.prompt, cut.run, np.full_like(cut.left, 99), cut.verified, cut.confidence)
    assert judge(naive, np.array(true), 15)["ece"][3] > 5 * exact["ece"][3]


def test_measures_equal_their_definitions() -> None:
    chance, label = np.array([0.05, 0.1, 0.9, 0.95]), np.array([False, True, True, True])
    assert ece(chance, label, 2) == pytest.approx((abs(1 - 0.15) + abs(2 - 1.85)) / 4)
    logits = np.log(chance / (1 - chance))[:, None].astype(np.float32)
    rounds = Rounds(np.arange(4), label.astype(np.int64), np.full(4, 3), np.ones(4, dtype=np.int64), logits)
    found = judge(rounds, None, 2)
    assert found["auc"] == [1.0]
    assert found["brier"][0] == pytest.approx(np.mean((chance - label) ** 2), rel=1e-5)
    assert [(round(c, 3), a, n) for c, a, n in reliability(rounds, None, 1, 2)] == [(0.075, 0.5, 2), (0.925, 1.0, 2)]
    tied = Rounds(np.arange(4), np.array([0, 1, 0, 1]), np.full(4, 3), np.ones(4, dtype=np.int64), logits * 0)
    assert judge(tied, None, 2)["auc"] == [0.5]


def bent(count: int, gamma: int, seed: int) -> Rounds:
    """Rounds whose slot survives with 0.45 + 0.5·σ(z)³ given all before it: no sigmoid of any z/T."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 1.8, (count, gamma))
    alive = rng.random((count, gamma)) < 0.45 + 0.5 / (1 + np.exp(-logits)) ** 3
    run, ends = alive.cumprod(axis=1).sum(axis=1), rng.integers(1, 40, count)
    return Rounds(np.arange(count) // 20, np.minimum(run, ends), ends, np.full(count, gamma), logits.astype(np.float32))


def test_maps_calibrate_what_no_temperature_does() -> None:
    rounds = bent(60_000, 4, 5)
    fit, held = (rounds.of(part) for part in split_prompts(rounds.prompt.tolist(), 0.5, 3))
    temperatures = fit_temperatures(fit, GRID, 15)
    maps = fit_maps(fit, temperatures)
    scaled, mapped = judge(held, temperatures, 15), judge(held, temperatures, 15, maps=maps)
    assert scaled["mean_ece"] > 0.03
    assert mapped["mean_ece"] < 0.4 * scaled["mean_ece"]
    assert mapped["ece"][0] < 2.5 * mapped["floor"][0]
    assert mapped["mean_brier"] < scaled["mean_brier"]
    drawn = reliability(held, temperatures, 1, 15, maps=maps)
    assert sum(n * abs(chance - share) for chance, share, n in drawn) / 30_000 == pytest.approx(
        mapped["ece"][0], abs=5e-3
    )


def test_maps_leave_calibrated_rounds_calibrated_and_survive_their_file(tmp_path: Path) -> None:
    true = [0.6, 1.8, 2.5]
    rounds = synthetic(60_000, true, 8)
    fit, held = (rounds.of(part) for part in split_prompts(rounds.prompt.tolist(), 0.5, 3))
    maps = fit_maps(fit, np.array(true))
    assert all(2 <= len(each.inputs) <= MAP_POINTS for each in maps)
    assert judge(held, np.array(true), 15, maps=maps)["mean_ece"] < 0.012
    kept = Calibration(3, {("coupled", "greedy"): np.array(true)}, {("coupled", "greedy"): maps})
    again = Calibration.parse(kept.to_json(), tmp_path / "calibration.json", 3)
    logits = held.confidence[:50]
    assert (again.survival(logits, np.zeros(50)) == kept.survival(logits, np.zeros(50))).all()


def test_slots_with_too_few_rounds_keep_what_they_have() -> None:
    few = synthetic(60, [1.0, 1.0], 6)
    ones = np.ones(2)
    for each in fit_maps(few, ones):
        assert each(np.array([0.0, 0.3, 1.0])).tolist() == [0.0, 0.3, 1.0]
    same = Rounds(np.arange(500), np.zeros(500, dtype=np.int64), np.full(500, 9), np.full(500, 2),
                  np.zeros((500, 2), dtype=np.float32))  # fmt: skip
    assert [len(each.inputs) for each in fit_maps(same, ones)] == [2, 2]  # one chance for all of them: one bin
    never = fit_maps(Rounds(same.prompt, same.run, same.left, same.verified,
                            np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)), ones)  # fmt: skip
    assert (never[0].outputs > 0).all()  # rounds that all fail still look proposed


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 100)), min_size=1, max_size=30))
def test_pooling_adjacent_violators_equals_scipy(points: list[tuple[float, float]]) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    values, weights = np.array(points).T
    found = isotonic(values, weights)
    np.testing.assert_allclose(found, optimize.isotonic_regression(values, weights=weights).x, atol=1e-9)
    assert (np.diff(found) >= 0).all()
