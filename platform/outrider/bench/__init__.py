"""Reproducible figures: exactness, acceptance and speed, each arm measured beside the others in one run.

A benchmark loads on first use: what one needs (HTTP clients, rich, YAML) the check of a GPU may not find.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {
    "Report": "report",
    "Setup": "setup",
    "Spread": "spread",
    "Table": "report",
    "measure_acceptance": "acceptance",
    "measure_classes": "classes",
    "measure_decide": "decide",
    "measure_decode": "decode",
    "measure_exact": "exact",
    "measure_heavier": "heavier",
    "measure_http": "http",
    "measure_memory": "memory",
    "measure_peers": "peers",
    "measure_round": "round",
    "measure_rules": "rules",
    "measure_scheduler": "scheduler",
    "measure_seeds": "seeds",
    "measure_step": "step",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"outrider.bench.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
