"""Snapshot and policy in, decision out; pure: no clock, no I/O. NumPy only."""

from outrider.routing.decide import decide
from outrider.routing.prediction import Grid, Prediction, predict
from outrider.routing.query import RouteQuery
from outrider.routing.roads import granted_models

__all__ = ["Grid", "Prediction", "RouteQuery", "decide", "granted_models", "predict"]
