"""Snapshots and policy in, decision out; pure: no clock, no I/O. NumPy only."""

from outrider.routing.corrections import Corrections, OutputLength, Spread
from outrider.routing.decide import decide
from outrider.routing.explanation import as_record, records
from outrider.routing.prediction import Axes, Fleet, Prediction, predict
from outrider.routing.predictor import Observed, Predictor
from outrider.routing.query import RouteQuery
from outrider.routing.roads import granted_models

__all__ = [
    "Axes",
    "Corrections",
    "Fleet",
    "Observed",
    "OutputLength",
    "Prediction",
    "Predictor",
    "RouteQuery",
    "Spread",
    "as_record",
    "decide",
    "granted_models",
    "predict",
    "records",
]
