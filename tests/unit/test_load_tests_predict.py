"""The load test of predictions, without a server: events whose truth is known."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import predict
from outrider.errors import ConfigurationError
from outrider.telemetry import RequestEvent, RequestOutcome
from outrider.types import BatchClass, Budgets, Decision, PredictionBasis
from scenario import Scenario

SCENARIO = Scenario.model_validate(
    {
        "arrivals": {"process": "poisson", "rate_per_s": [1.0, 2.0, 3.0]},
        "duration_s": 1.0,
        "classes": {"short": {"body": {"model": "flash"}, "budgets": {"tags": ["short"]}}},
    }
)
BASIS = PredictionBasis(
    model="flash", replica="f-0", epoch=1, tenant="demo", domain="other", prompt_tokens=100, cached_tokens=0, running=2,
    queued=0, queued_tokens=0, places=32, ttft_s=0.02, tpot_s=0.002, warm_s=60.0,
)  # fmt: skip


def event(ratio: float) -> RequestEvent:
    decision = Decision(
        decision_id="d", model="flash", replica="f-0", depth_cap=0, batch_class=BatchClass("balanced"),
        policy_version="v", objective="cheapest", predicted_ttft_s=0.02, predicted_tpot_s=0.002,
        predicted_cost_usd=0.0, tpot_target_s=None, max_tokens=32, limited_by_cost=False, lossless="coupled",
        reasons=(), basis=BASIS, quantile_ttft_s=1.0, quantile_tpot_s=1e-9,
    )  # fmt: skip
    outcome = RequestOutcome(
        200, "stop", ttft_s=BASIS.ttft_s * ratio + 0.5, tpot_s=BASIS.tpot_s * ratio, completion_tokens=32, wait_s=0.5
    )
    return RequestEvent(
        time.time() + 1, "r", "d", "demo", "chat", "flash", "v", True, Budgets(), outcome, decision, tags=("short",)
    )


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], Path]:
    """A server whose requests take what was predicted, times a log-normal factor."""
    monkeypatch.setattr(predict, "_DRAINED_S", 0.0)
    events = tmp_path / "events.jsonl"

    def serves(shift_of_unseen: float) -> Path:
        chance = random.Random(7)

        async def drive(scenario: Scenario, load: float, *rest: Any) -> None:
            with events.open("ab") as file:
                for _ in range(400):
                    ratio = math.exp(chance.gauss(0.7 + (shift_of_unseen if load == 3.0 else 0.0), 0.3))
                    file.write(msgspec.json.encode(event(ratio)) + b"\n")
                refused = RequestOutcome(503, error_code="overloaded")
                file.write(msgspec.json.encode(replace(event(1.0), outcome=refused)) + b"\n")

        monkeypatch.setattr(predict, "_driven", drive)
        return events

    return serves


def rows(report: Any, table: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = report.as_dict()["tables"][table]["rows"]
    return found


def measured(events: Path) -> Any:
    return predict.measure(SCENARIO, events, 2, "http://nowhere", "", lambda _: None)


def test_a_load_like_those_fitted_on_keeps_its_quantiles(driven: Callable[[float], Path]) -> None:
    report = measured(driven(0.0))
    for row in rows(report, 0):
        assert row["requests"] == 400, "who was refused is no sample"
        assert 86 <= row["frozen: kept %"] <= 94
        assert row["server's: kept %"] == (100 if row["metric"] == "TTFT" else 0)
    assert all(row["frozen"] == pytest.approx(1.0, abs=0.1) for row in rows(report, 1)), "the truth is a constant"
    assert "2 of 2 cells within 85–95 % (frozen)" in report.notes


def test_a_load_unlike_them_is_caught(driven: Callable[[float], Path]) -> None:
    """Negative control."""
    report = measured(driven(1.0))
    assert all(row["frozen: kept %"] < 30 for row in rows(report, 0))
    assert all(row["frozen"] > 1.5 for row in rows(report, 1))


def test_a_file_that_is_not_the_server_s_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def drive(*anything: Any) -> None:
        """Nothing is written."""

    monkeypatch.setattr(predict, "_driven", drive)
    monkeypatch.setattr(predict, "_DRAINED_S", 0.0)
    with pytest.raises(ConfigurationError, match="does not exist"):
        measured(tmp_path / "none.jsonl")
    (tmp_path / "other.jsonl").touch()
    with pytest.raises(ConfigurationError, match="no answered request"):
        measured(tmp_path / "other.jsonl")
    with pytest.raises(ConfigurationError, match="--fitted is 3"):
        predict.measure(SCENARIO, tmp_path / "other.jsonl", 3, "", "", lambda _: None)
