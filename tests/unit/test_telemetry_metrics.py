"""Metrics carry the names dashboards know, and only what happened."""

from __future__ import annotations

import dataclasses

from outrider.telemetry import Metrics, RequestEvent, RequestOutcome
from outrider.types import BatchClass, Budgets, CalibrationReport, Decision, LoadSnapshot

OUTCOME = RequestOutcome(
    status=200,
    finish_reason="stop",
    e2e_s=0.5,
    ttft_s=0.03,
    tpot_s=0.004,
    queue_s=0.001,
    prompt_tokens=11,
    cached_tokens=8,
    completion_tokens=9,
    drafted_tokens=21,
    admitted_tokens=9,
    accepted_tokens=5,
    cost_usd=0.25,
    rounds=((7, 3), (2, 2), (0, 0)),
)
DECISION = Decision("d", "pro", "pro-0", 7, BatchClass("b"), "v", "cost", 0.1, 0.1, 0.1, None, 64)
EVENT = RequestEvent(1.0, "r", "d", "acme", "chat", "auto", "v", True, Budgets(), OUTCOME, DECISION)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"outrider:{name}", labels)


def test_a_finished_request_is_counted_once_everywhere() -> None:
    metrics = Metrics()
    metrics.generated(EVENT)
    pro = {"model_name": "pro"}
    assert value(metrics, "spec_decode_num_drafts_total", **pro) == 2
    assert value(metrics, "spec_decode_num_draft_tokens_total", **pro) == 21
    assert value(metrics, "spec_decode_num_accepted_tokens_total", **pro) == 5
    by_position = [
        value(metrics, "spec_decode_num_accepted_tokens_per_pos_total", position=str(at), **pro) for at in range(4)
    ]
    assert by_position == [2, 2, 1, None]
    assert value(metrics, "generation_tokens_total", **pro) == 9
    assert value(metrics, "prefix_cache_queries_total", **pro) == 11
    assert value(metrics, "prefix_cache_hits_total", **pro) == 8
    assert value(metrics, "cost_usd_total", tenant="acme", **pro) == 0.25
    assert value(metrics, "time_to_first_token_seconds_sum", **pro) == 0.03
    assert value(metrics, "time_per_output_token_seconds_count", **pro) == 1
    assert value(metrics, "e2e_request_latency_seconds_sum", **pro) == 0.5
    assert value(metrics, "request_queue_time_seconds_count", **pro) == 1
    assert value(metrics, "request_prefill_time_seconds_count", **pro) is None


def test_a_request_that_no_model_took_leaves_no_latency() -> None:
    metrics = Metrics()
    metrics.generated(dataclasses.replace(EVENT, decision=None))
    metrics.answered(model="", tenant="acme", status=429)
    assert value(metrics, "e2e_request_latency_seconds_count", model_name="pro") is None
    assert value(metrics, "requests_total", model_name="", tenant="acme", status="429") == 1


def test_loads_are_read_when_scraped() -> None:
    metrics = Metrics()
    load = LoadSnapshot("pro", "pro-0", 1, time_s=10.0, queued_requests=3, running_requests=2, kv_blocks_used=1)
    loads: dict[str, LoadSnapshot | None] = {"flash": None, "pro": load}
    metrics.watch(lambda: loads, clock=lambda: 12.5)
    assert value(metrics, "model_up", model_name="flash") == 0
    assert value(metrics, "num_requests_waiting", model_name="flash") is None
    assert value(metrics, "num_requests_waiting", model_name="pro") == 3
    assert value(metrics, "load_snapshot_age_seconds", model_name="pro") == 2.5
    assert value(metrics, "kv_cache_usage_perc", model_name="pro") == 0
    loads["pro"] = dataclasses.replace(
        load, kv_blocks_used=1, kv_blocks_total=4, running_requests=5, prediction_bias=-0.25, prediction_error=0.5
    )
    assert value(metrics, "round_prediction_bias", model_name="pro") == -0.25
    assert value(metrics, "round_prediction_error", model_name="pro") == 0.5
    assert value(metrics, "num_requests_running", model_name="pro") == 5
    assert value(metrics, "kv_cache_usage_perc", model_name="pro") == 0.25


def test_calibration_is_told_by_rule_traffic_and_position() -> None:
    metrics = Metrics()
    report = CalibrationReport("coupled", "greedy", (40, 0), (0.03, None), (0.8, None), (0.1, None), False, 2, 1)
    load = LoadSnapshot("pro", "pro-0", 1, time_s=10.0, calibration=(report,))
    metrics.watch(lambda: {"flash": None, "pro": load}, clock=lambda: 10.0)
    greedy = {"model_name": "pro", "rule": "coupled", "traffic": "greedy"}
    assert value(metrics, "calibration_ece", position="0", **greedy) == 0.03
    assert value(metrics, "calibration_auc", position="0", **greedy) == 0.8
    assert value(metrics, "calibration_brier", position="1", **greedy) is None
    assert [value(metrics, "calibration_samples", position=at, **greedy) for at in "01"] == [40, 0]
    named = ("trusted", "breaks", "refits")
    assert [value(metrics, f"calibration_{name}", **greedy) for name in named] == [0, 2, 1]


def test_both_exposition_formats_render() -> None:
    metrics = Metrics()
    metrics.generated(EVENT)
    body, content_type = metrics.render("text/plain")
    assert content_type.startswith("text/plain")
    assert b'outrider:time_to_first_token_seconds_bucket{le="0.04",model_name="pro"} 1.0' in body
    openmetrics, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert openmetrics.endswith(b"# EOF\n")
