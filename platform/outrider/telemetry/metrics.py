"""Prometheus metrics under `outrider:`, shaped like vLLM's so that dashboards port by renaming the prefix."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from outrider.telemetry.admission import AdmissionMetrics
from outrider.telemetry.events import RequestEvent, RequestOutcome
from outrider.types import LoadSnapshot

__all__ = ["Metrics"]

LATENCY_S = (
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)

Loads = Callable[[], Mapping[str, LoadSnapshot | None]]


class Metrics:
    """One gateway's metrics in a registry of its own; series are labelled by `model_name`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.admission = AdmissionMetrics(self.registry)
        self._requests = self._counter("requests", "Requests answered.", "tenant", "status")
        self._cost = self._counter("cost_usd", "Money charged at list prices.", "tenant")
        self._prompt = self._counter("prompt_tokens", "Prompt tokens processed.")
        self._generation = self._counter("generation_tokens", "Tokens generated.")
        self._prefix_queries = self._counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._prefix_hits = self._counter("prefix_cache_hits", "Prompt tokens whose computation was taken over.")
        self._drafts = self._counter("spec_decode_num_drafts", "Rounds that verified at least one draft token.")
        self._draft_tokens = self._counter("spec_decode_num_draft_tokens", "Draft tokens proposed.")
        self._admitted = self._counter("spec_decode_num_admitted_tokens", "Draft tokens verified.")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Draft tokens accepted.")
        self._accepted_at = self._counter(
            "spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens accepted, by position in the block.",
            "position",
        )
        self._ttft = self._histogram("time_to_first_token_seconds", "Request received to first token.", LATENCY_S)
        self._tpot = self._histogram("time_per_output_token_seconds", "(wall − TTFT)/(output tokens − 1).", PER_TOKEN_S)
        self._e2e = self._histogram("e2e_request_latency_seconds", "Request received to last token.", LATENCY_S)
        self._queue = self._histogram("request_queue_time_seconds", "Time waiting in the engine.", LATENCY_S)
        self._prefill = self._histogram("request_prefill_time_seconds", "Time in prefill.", LATENCY_S)
        self._decode = self._histogram("request_decode_time_seconds", "Time in decode.", LATENCY_S)

    def answered(self, *, model: str, tenant: str, status: int) -> None:
        """Count one answer, refusals included; `model` and `tenant` are empty where never known."""
        self._requests.labels(model, tenant, str(status)).inc()

    def generated(self, event: RequestEvent) -> None:
        """Record the outcome of a request that was sent to a model."""
        if event.decision is None:
            return
        model, outcome = event.decision.model, event.outcome
        self._cost.labels(model, event.tenant).inc(outcome.cost_usd)
        if outcome.cache_hit:
            return  # no model did anything
        self._prompt.labels(model).inc(outcome.prompt_tokens)
        self._generation.labels(model).inc(outcome.completion_tokens)
        self._prefix_queries.labels(model).inc(outcome.prompt_tokens)
        self._prefix_hits.labels(model).inc(outcome.cached_tokens)
        if outcome.finish_reason is not None:
            self._e2e.labels(model).observe(outcome.e2e_s)
        for histogram, value in (
            (self._ttft, outcome.ttft_s),
            (self._tpot, outcome.tpot_s),
            (self._queue, outcome.queue_s),
            (self._prefill, outcome.prefill_s),
            (self._decode, outcome.decode_s),
        ):
            if value is not None:
                histogram.labels(model).observe(value)
        self._speculated(model, outcome)

    def watch(self, loads: Loads, clock: Callable[[], float]) -> None:
        """Export every model's newest load at scrape time; `clock` is the one snapshots are stamped with."""
        self.registry.register(_LoadCollector(loads, clock))

    def render(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format the scraper accepts."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _speculated(self, model: str, outcome: RequestOutcome) -> None:
        self._drafts.labels(model).inc(sum(admitted > 0 for admitted, _ in outcome.rounds))
        self._draft_tokens.labels(model).inc(outcome.drafted_tokens)
        self._admitted.labels(model).inc(outcome.admitted_tokens)
        self._accepted.labels(model).inc(outcome.accepted_tokens)
        by_position = Tally(position for _, accepted in outcome.rounds for position in range(accepted))
        for position, count in by_position.items():
            self._accepted_at.labels(model, str(position)).inc(count)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"outrider:{name}", help_text, ("model_name", *labels), registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"outrider:{name}", help_text, ("model_name",), registry=self.registry, buckets=buckets)


class _LoadCollector(Collector):
    """Gauges read from load snapshots when scraped; a model without a healthy replica exports only `up` 0."""

    def __init__(self, loads: Loads, clock: Callable[[], float]) -> None:
        self._loads = loads
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"outrider:{name}", help_text, labels=("model_name",))
            for name, help_text in (
                ("model_up", "1 when a replica's load is known."),
                ("num_requests_running", "Requests decoding or in prefill."),
                ("num_requests_waiting", "Requests queued in the engine."),
                ("kv_cache_usage_perc", "KV blocks in use, 1 is all."),
                ("drafter_ready", "1 when a drafter is attached."),
                ("verified_token_price_seconds", "λ, the live price of one verified token."),
                ("num_requests_hopeless", "Running requests whose TPOT target is out of reach."),
                ("round_prediction_bias", "Mean (predicted − real) ÷ real duration of recent rounds."),
                ("round_prediction_error", "Mean |predicted − real| ÷ real duration of recent rounds."),
                ("load_snapshot_age_seconds", "Age of the newest load snapshot."),
            )
        }
        slots, traffic = _calibration_gauges("slot"), _calibration_gauges("traffic")
        for model, load in self._loads().items():
            for name, value in _load_values(load, self._clock()).items():
                gauges[name].add_metric((model,), value)
            for each in load.calibration if load else ():
                labels = (model, each.rule, each.traffic)
                for name, gauge in traffic.items():
                    gauge.add_metric(labels, float(getattr(each, name)))
                for name, gauge in slots.items():
                    for position, found in enumerate(getattr(each, name)):
                        if found is not None:
                            gauge.add_metric((*labels, str(position)), found)
        return (*gauges.values(), *traffic.values(), *slots.values())


_CALIBRATION = {
    "slot": {
        "samples": "Rounds verified whole that the calibration gauges of a position are over.",
        "ece": "Expected calibration error of prefix survival, by position in the block.",
        "auc": "Chance that an accepted prefix was given a higher survival than a rejected one.",
        "brier": "Brier score of prefix survival.",
    },
    "traffic": {
        "trusted": "1 while depths follow confidences, 0 while they follow measured acceptance.",
        "breaks": "Times that confidences lost trust since the drafter was attached.",
        "refits": "Times that the calibration was replaced since the drafter was attached.",
    },
}


def _calibration_gauges(kind: str) -> dict[str, GaugeMetricFamily]:
    """Gauges of one (rule, class of traffic), and of each of its slots, by the report's field."""
    labels = ("model_name", "rule", "traffic", *(("position",) if kind == "slot" else ()))
    return {
        name: GaugeMetricFamily(f"outrider:calibration_{name}", help_text, labels=labels)
        for name, help_text in _CALIBRATION[kind].items()
    }


def _load_values(load: LoadSnapshot | None, now_s: float) -> dict[str, float]:
    if load is None:
        return {"model_up": 0.0}
    return {
        "model_up": 1.0,
        "num_requests_running": load.running_requests,
        "num_requests_waiting": load.queued_requests,
        "kv_cache_usage_perc": load.kv_blocks_used / load.kv_blocks_total if load.kv_blocks_total else 0.0,
        "drafter_ready": float(load.drafter_ready),
        "verified_token_price_seconds": load.price_s,
        "num_requests_hopeless": load.hopeless_requests,
        "round_prediction_bias": load.prediction_bias,
        "round_prediction_error": load.prediction_error,
        "load_snapshot_age_seconds": max(0.0, now_s - load.time_s),
    }
