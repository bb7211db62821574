"""Snapshot and policy in, decision out; pure: no clock, no I/O. NumPy only."""

from outrider.routing.decide import decide
from outrider.routing.prediction import Grid, Prediction, predict
from outrider.routing.query import RouteQuery

__all__ = ["Grid", "Prediction", "RouteQuery", "decide", "predict"]
