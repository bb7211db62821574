"""Append-only request events and Prometheus metrics; counts and timings, never text."""

from outrider.telemetry.events import EventLog, RequestEvent, RequestOutcome
from outrider.telemetry.metrics import Metrics

__all__ = ["EventLog", "Metrics", "RequestEvent", "RequestOutcome"]
