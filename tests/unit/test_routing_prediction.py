"""Predicted times against hand arithmetic."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from outrider.routing import Axes, Fleet, predict
from outrider.scheduling import StepCostCurve
from outrider.types import BatchClass, LoadSnapshot

IDLE = LoadSnapshot(
    model="m",
    replica="m-0",
    epoch=1,
    time_s=0.0,
    step_curve=((1, 1.0), (101, 11.0)),  # T(B) = 0.9 + 0.1 B
    draft_s=0.5,
    acceptance_tokens=(1.0, 1.5, 2.0),
    drafter_ready=True,
    context_tokens=10_000,
    max_running_requests=4,
)


@dataclasses.dataclass
class Found:
    """One replica, one class: by depth."""

    ttft_s: Any
    tpot_s: Any


def found(
    load: LoadSnapshot, *depths: int, prompt: int = 10, output: int = 5, co_batch: int = 50, share: float = 1.0,
    wait_s: float = 0.0,
) -> Found:  # fmt: skip
    axes = Axes.of(depths, [BatchClass("c", prefill_share=share, co_batch_tokens=co_batch, admission_wait_s=wait_s)])
    predicted = predict(Fleet.of([load]), axes, np.array([prompt]), np.array([output]))
    return Found(predicted.ttft_s[0, 0], predicted.tpot_s[0, 0])


def loaded(**changes: float) -> LoadSnapshot:
    return dataclasses.replace(IDLE, **changes)  # type: ignore[arg-type]


def test_tpot_is_a_round_over_what_it_emits() -> None:
    assert found(IDLE, 0).tpot_s == pytest.approx([1.0])
    assert found(loaded(draft_s=0.1), 0, 1, 2).tpot_s == pytest.approx([1.0, 1.2 / 1.5, 1.3 / 2.0])


def test_a_cap_that_is_too_large_costs_a_fraction_of_what_such_a_depth_would() -> None:
    """The engine verifies less where that is better: a cap is a bound."""
    at_depth = [1.0 / 1.0, (1.1 + 0.5) / 1.5, (1.2 + 0.5) / 2.0, (1.7 + 0.5) / 2.0]
    best = [1.0, 1.0, 0.85, 0.85]
    expected = [low + 0.01 * (each - low) for low, each in zip(best, at_depth, strict=True)]
    assert found(IDLE, 0, 1, 2, 7).tpot_s == pytest.approx(expected)


def test_what_a_token_lately_took_scales_what_the_curves_say() -> None:
    """In a round is more than its step: prompts beside it, the host, a neighbour on the same cores."""
    lately = loaded(pace_s=3.4, pace_requests=1.0)  # the curves say 0.85 of one request, at its best depth
    assert found(lately, 0).tpot_s == pytest.approx([4.0])
    assert found(lately, 0, 1, 2).tpot_s[2] == pytest.approx(3.4)
    others = loaded(running_requests=3, pace_s=2.6, pace_requests=4.0)  # 1.3 of four, without drafts
    assert found(others, 0).tpot_s == pytest.approx([2.6])
    assert found(loaded(pace_s=1e9, pace_requests=1.0), 0).tpot_s == pytest.approx([64.0])


def test_tpot_counts_who_is_ahead_in_the_queue() -> None:
    """They run by the time it does."""
    assert found(loaded(running_requests=1, queued_requests=2), 0).tpot_s == pytest.approx([1.3])


def test_tpot_counts_the_others() -> None:
    busy = loaded(running_requests=3)
    assert found(busy, 0).tpot_s == pytest.approx(0.9 + 0.1 * 4)
    best, at_depth_1 = 0.9 + 0.1 * 4, (0.9 + 0.1 * 8 + 0.5) / 1.5
    assert found(busy, 1).tpot_s == pytest.approx(best + 0.01 * (at_depth_1 - best))


def test_the_co_batch_cap_bounds_the_depth_of_all() -> None:
    busy = loaded(running_requests=3)
    best, at_depth_1 = 1.3, (0.9 + 0.1 * 8 + 0.5) / 1.5
    assert found(busy, 2, 7, co_batch=11).tpot_s == pytest.approx([best + 0.01 * (at_depth_1 - best)] * 2)
    assert found(busy, 2, 7, co_batch=3).tpot_s == pytest.approx([best] * 2)


def test_ttft_of_an_idle_replica_is_its_prefill() -> None:
    assert found(IDLE, 0, prompt=50).ttft_s == pytest.approx(5.9)
    assert found(IDLE, 0, prompt=101).ttft_s == pytest.approx(11.0)
    assert found(IDLE, 0, prompt=111).ttft_s == pytest.approx(11.0 + 1.9)


def test_a_class_waits_for_company_only_where_nobody_runs() -> None:
    assert found(IDLE, 0, prompt=50, wait_s=2.0).ttft_s == pytest.approx(7.9)
    busy = loaded(running_requests=2, round_s=3.0)
    assert found(busy, 0, prompt=50, wait_s=2.0).ttft_s == found(busy, 0, prompt=50).ttft_s


def test_ttft_counts_queue_and_what_runs() -> None:
    assert found(loaded(queued_tokens=40, queued_requests=1), 0).ttft_s == pytest.approx(5.9)
    busy = loaded(running_requests=2, round_s=3.0)
    assert found(busy, 0, prompt=50).ttft_s == pytest.approx(3.0 + 5.9 + 0.2)
    assert found(busy, 0, prompt=50, share=0.5).ttft_s == pytest.approx(3.0 + 2 * (3.4 + 0.2))
    assert found(loaded(running_requests=2), 0, prompt=50).ttft_s == pytest.approx(1.1 + 0.5 + 5.9 + 0.2)


def test_ttft_waits_for_a_place() -> None:
    full = loaded(running_requests=4, queued_requests=1, round_s=2.0)
    assert found(full, 0, prompt=50).tpot_s == pytest.approx(1.3)
    assert found(full, 0, prompt=50).ttft_s == pytest.approx(2 * 5 * 1.3 / 4 + 2.0 + 5.9 + 0.4)
    unbounded = dataclasses.replace(full, max_running_requests=0)
    assert found(unbounded, 0, prompt=50).ttft_s == pytest.approx(2.0 + 5.9 + 0.4)


def test_replicas_are_predicted_together_as_each_by_itself() -> None:
    loads = [IDLE, loaded(running_requests=3), loaded(step_curve=((2, 0.5), (9, 1.5), (40, 4.0)), draft_s=0.0)]
    axes = Axes.of((0, 1, 7), [BatchClass("a"), BatchClass("b", co_batch_tokens=9, prefill_share=0.1)])
    prompts, outputs = np.array([10, 500, 70]), np.array([5, 60, 7])
    together = predict(Fleet.of(loads), axes, prompts, outputs)
    for at, load in enumerate(loads):
        alone = predict(Fleet.of([load]), axes, prompts[at : at + 1], outputs[at : at + 1])
        assert together.ttft_s[at] == pytest.approx(alone.ttft_s[0], rel=1e-6)
        assert together.tpot_s[at] == pytest.approx(alone.tpot_s[0], rel=1e-6)


def test_steps_beyond_the_curve_follow_its_last_slope() -> None:
    """As StepCostCurve has it."""
    curve = StepCostCurve((1, 101), (1.0, 11.0), "v")
    sizes = np.array([[1, 50, 101, 400, 100_000]])
    assert Fleet.of([IDLE]).step_s(sizes)[0] == pytest.approx(curve.seconds_at(sizes[0]))
