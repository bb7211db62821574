"""Predicted times against hand arithmetic."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from outrider.routing import Grid, predict
from outrider.types import LoadSnapshot

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


def grid(*depths: int, co_batch_tokens: int = 50, prefill_share: float = 1.0, wait_s: float = 0.0) -> Grid:
    size = len(depths)
    return Grid(np.array(depths), np.full(size, co_batch_tokens), np.full(size, prefill_share), np.full(size, wait_s))


def loaded(**changes: float) -> LoadSnapshot:
    return dataclasses.replace(IDLE, **changes)  # type: ignore[arg-type]


def test_tpot_is_a_round_over_what_it_emits() -> None:
    found = predict(IDLE, grid(0, 1, 2, 7), prompt_tokens=10, output_tokens=5)
    expected = [1.0 / 1.0, (1.1 + 0.5) / 1.5, (1.2 + 0.5) / 2.0, (1.7 + 0.5) / 2.0]
    assert found.tpot_s == pytest.approx(expected)
    assert found.e2e_s == pytest.approx(found.ttft_s + 4 * found.tpot_s)


def test_tpot_counts_the_others() -> None:
    busy = loaded(running_requests=3)
    assert predict(busy, grid(1), 10, 5).tpot_s == pytest.approx((0.9 + 0.1 * 8 + 0.5) / 1.5)
    assert predict(busy, grid(0), 10, 5).tpot_s == pytest.approx(0.9 + 0.1 * 4)


def test_the_co_batch_cap_bounds_the_depth_of_all() -> None:
    busy = loaded(running_requests=3)
    at_depth_1 = (0.9 + 0.1 * 8 + 0.5) / 1.5
    assert predict(busy, grid(2, 7, co_batch_tokens=11), 10, 5).tpot_s == pytest.approx([at_depth_1] * 2)
    assert predict(busy, grid(2, 7, co_batch_tokens=3), 10, 5).tpot_s == pytest.approx([1.3] * 2)


def test_ttft_of_an_idle_replica_is_its_prefill() -> None:
    assert predict(IDLE, grid(0), 50, 5).ttft_s == pytest.approx(5.9)
    assert predict(IDLE, grid(0), 101, 5).ttft_s == pytest.approx(11.0)
    assert predict(IDLE, grid(0), 111, 5).ttft_s == pytest.approx(11.0 + 1.9)
    assert predict(IDLE, grid(0, wait_s=2.0), 50, 5).ttft_s == pytest.approx(7.9)


def test_ttft_counts_queue_and_what_runs() -> None:
    assert predict(loaded(queued_tokens=40, queued_requests=1), grid(0), 10, 5).ttft_s == pytest.approx(5.9)
    busy = loaded(running_requests=2, round_s=3.0)
    assert predict(busy, grid(0), 50, 5).ttft_s == pytest.approx(3.0 + 5.9 + 0.2)
    assert predict(busy, grid(0, prefill_share=0.5), 50, 5).ttft_s == pytest.approx(3.0 + 2 * (3.4 + 0.2))
    assert predict(loaded(running_requests=2), grid(0), 50, 5).ttft_s == pytest.approx(1.1 + 0.5 + 5.9 + 0.2)


def test_ttft_waits_for_a_place() -> None:
    full = loaded(running_requests=4, queued_requests=1, round_s=2.0)
    found = predict(full, grid(0), 50, 5)
    assert found.tpot_s == pytest.approx(1.3)
    assert found.ttft_s == pytest.approx(2 * 5 * 1.3 / 4 + 2.0 + 5.9 + 0.4)
    unbounded = dataclasses.replace(full, max_running_requests=0)
    assert predict(unbounded, grid(0), 50, 5).ttft_s == pytest.approx(2.0 + 5.9 + 0.4)
