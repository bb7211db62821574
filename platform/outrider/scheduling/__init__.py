"""The arithmetic of deciding what to verify: step-cost curves, prefix schedulers, calibration. NumPy only."""

from outrider.scheduling.algorithm1 import Algorithm1, algorithm1
from outrider.scheduling.asynchronous import Asynchronous
from outrider.scheduling.baselines import DepthTable, FixedDepth, NoDrafts, Threshold
from outrider.scheduling.calibration import Calibration, prefix_survival, traffic_class
from outrider.scheduling.constrained import Constrained
from outrider.scheduling.cost_files import costs_document, parse_costs, read_costs, write_costs
from outrider.scheduling.costs import CostModel, CostSubject
from outrider.scheduling.curve import StepCostCurve
from outrider.scheduling.floors import MARGIN, hopeless, needed_tokens
from outrider.scheduling.forecast import Forecast
from outrider.scheduling.named import scheduler_named
from outrider.scheduling.scheduler import Budget, PrefixScheduler, Requests, RoundCosts

__all__ = [
    "MARGIN",
    "Algorithm1",
    "Asynchronous",
    "Budget",
    "Calibration",
    "Constrained",
    "CostModel",
    "CostSubject",
    "DepthTable",
    "FixedDepth",
    "Forecast",
    "NoDrafts",
    "PrefixScheduler",
    "Requests",
    "RoundCosts",
    "StepCostCurve",
    "Threshold",
    "algorithm1",
    "costs_document",
    "hopeless",
    "needed_tokens",
    "parse_costs",
    "prefix_survival",
    "read_costs",
    "scheduler_named",
    "traffic_class",
    "write_costs",
]
