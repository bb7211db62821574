"""Reproducible figures: exactness, acceptance and speed, each arm measured beside the others in one run."""

from outrider.bench.acceptance import measure_acceptance
from outrider.bench.classes import measure_classes
from outrider.bench.decide import measure_decide
from outrider.bench.decode import measure_decode
from outrider.bench.exact import measure_exact
from outrider.bench.heavier import measure_heavier
from outrider.bench.http import measure_http
from outrider.bench.memory import measure_memory
from outrider.bench.peers import measure_peers
from outrider.bench.report import Report, Table
from outrider.bench.round import measure_round
from outrider.bench.rules import measure_rules
from outrider.bench.scheduler import measure_scheduler
from outrider.bench.seeds import measure_seeds
from outrider.bench.setup import Setup
from outrider.bench.spread import Spread
from outrider.bench.step import measure_step

__all__ = [
    "Report",
    "Setup",
    "Spread",
    "Table",
    "measure_acceptance",
    "measure_classes",
    "measure_decide",
    "measure_decode",
    "measure_exact",
    "measure_heavier",
    "measure_http",
    "measure_memory",
    "measure_peers",
    "measure_round",
    "measure_rules",
    "measure_scheduler",
    "measure_seeds",
    "measure_step",
]
