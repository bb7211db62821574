"""What admission, kept answers and predictions did, as metrics. Labels take models and fixed words only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from outrider.telemetry.events import RequestEvent

__all__ = ["AdmissionMetrics"]

WAIT_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Waiting = Callable[[], Mapping[str, int]]
Kept = Callable[[], tuple[int, int]]


class AdmissionMetrics:
    """Part of one gateway's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._shed = self._counter("requests_shed", "Requests sent home from the waiting line.", "model_name", "reason")
        self._refused = self._counter("requests_refused", "Requests refused before any token, by code.", "reason")
        self._hits = self._counter("answer_cache_hits", "Requests that were given a kept answer.", "model_name")
        self._misses = self._counter("answer_cache_misses", "Requests that could have had one.", "model_name")
        self._predicted = self._counter("predictions", "Predictions with an outcome.", "model_name", "of")
        self._kept = self._counter("predictions_kept", "Outcomes within the predicted quantile.", "model_name", "of")
        self._stale = self._counter("decisions_stale", "Decisions made on an old load report.", "model_name")
        self._wait = Histogram(
            "outrider:request_wait_time_seconds",
            "Time in the gateway's waiting line.",
            ("model_name",),
            registry=registry,
            buckets=WAIT_S,
        )

    def shed(self, model: str, reason: str) -> None:
        """Somebody was sent home: the line was `full`, or had `waited` too long."""
        self._shed.labels(model, reason).inc()

    def refused(self, code: str) -> None:
        """A request was refused with an error's code."""
        self._refused.labels(code).inc()

    def ended(self, event: RequestEvent, *, looked_up: bool) -> None:
        """A request that was let in has ended. looked_up: equal ones may have had a kept answer."""
        decision, outcome = event.decision, event.outcome
        if decision is None:
            return
        if looked_up:
            (self._hits if outcome.cache_hit else self._misses).labels(decision.model).inc()
        if outcome.cache_hit:
            return
        self._wait.labels(decision.model).observe(outcome.wait_s)
        if decision.stale:
            self._stale.labels(decision.model).inc()
        ttft_s = None if outcome.ttft_s is None else outcome.ttft_s - outcome.wait_s
        for name, came_s, said_s in (
            ("ttft", ttft_s, decision.quantile_ttft_s),
            ("tpot", outcome.tpot_s, decision.quantile_tpot_s),
        ):
            if came_s is not None and said_s > 0:
                self._predicted.labels(decision.model, name).inc()
                self._kept.labels(decision.model, name).inc(came_s <= said_s)

    def watch(self, waiting: Waiting, kept: Kept) -> None:
        """Export at scrape time who waits, by model, and how many answers are kept, in how many bytes."""
        self._registry.register(_Collector(waiting, kept))

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"outrider:{name}", help_text, labels, registry=self._registry)


class _Collector(Collector):
    def __init__(self, waiting: Waiting, kept: Kept) -> None:
        self._waiting = waiting
        self._kept = kept

    def collect(self) -> Iterable[Metric]:
        line = GaugeMetricFamily(
            "outrider:num_requests_in_line", "Requests waiting in the gateway.", labels=("model_name",)
        )
        for model, count in self._waiting().items():
            line.add_metric((model,), count)
        entries, size_bytes = self._kept()
        return (
            line,
            GaugeMetricFamily("outrider:answer_cache_entries", "Answers kept.", value=entries),
            GaugeMetricFamily("outrider:answer_cache_bytes", "Bytes they take.", value=size_bytes),
        )
