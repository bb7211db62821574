"""Logistic regression on sparse rows, multinomial or one per column, by accelerated gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.quality.features import WEIGHTS, Hashes, Rows

__all__ = ["Linear", "fit_linear", "sigmoid", "softmax"]

Floats = NDArray[np.float64]
Link = Callable[[Floats], Floats]

ROUNDS = 400
_ENOUGH = 1e-5


def sigmoid(scores: Floats) -> Floats:
    """Elementwise 1 / (1 + exp(-s)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * scores))


def softmax(scores: Floats) -> Floats:
    """Over the last axis."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Floats = raised / raised.sum(axis=-1, keepdims=True)
    return shares


@dataclass(frozen=True, slots=True)
class Linear:
    """Scores of a prompt: weights [WEIGHTS, outputs] of its features, and by_side [sides, outputs] of dense columns.

    The sides are what else is known of a prompt: a constant 1 at least.
    """

    weights: Floats
    by_side: Floats

    def scores(self, rows: Rows, sides: Floats) -> Floats:
        """[rows, outputs]."""
        return rows.times(self.weights) + sides @ self.by_side

    def score(self, hashed: Hashes, sides: Floats) -> Floats:
        """[outputs] of one prompt, without a matrix of one row: that took 10 µs more."""
        summed: Floats = self.weights[hashed & np.uint32(WEIGHTS - 1)].sum(axis=0)
        return summed / math.sqrt(len(hashed)) + sides @ self.by_side


def fit_linear(rows: Rows, sides: Floats, targets: Floats, link: Link, ridge: float) -> Linear:
    """Minimise mean log loss + ridge/2·|weights|²; sides are [rows, sides] and hardly shrunk.

    targets [rows, outputs] in [0, 1]; `link` is `sigmoid` for independent outputs, `softmax` for exclusive ones.
    Nesterov's method for smooth convex functions with gradient restarts (O'Donoghue, Candès 2015): the length of a row,
    1 without its sides, bounds the curvature, so no step is ever searched. Deterministic.
    """
    outputs = targets.shape[1]
    curvature = 0.25 if link is sigmoid else 0.5
    step = 1 / (curvature * (1 + np.square(sides).sum(axis=1).max()) + ridge)
    weights, by_side = np.zeros((WEIGHTS, outputs)), np.zeros((sides.shape[1], outputs))
    ahead_weights, ahead_side, pace = weights, by_side, 1.0
    for _ in range(ROUNDS):
        missed = (link(rows.times(ahead_weights) + sides @ ahead_side) - targets) / len(targets)
        slope = rows.transposed_times(missed) + ridge * ahead_weights
        slope_side = sides.T @ missed + 0.01 * ridge * ahead_side
        new_weights, new_side = ahead_weights - step * slope, ahead_side - step * slope_side
        uphill = np.vdot(slope, new_weights - weights) + np.vdot(slope_side, new_side - by_side) > 0
        new_pace = 1.0 if uphill else 0.5 * (1 + np.sqrt(1 + 4 * pace * pace))
        lead = 0.0 if uphill else (pace - 1) / new_pace
        ahead_weights = new_weights + lead * (new_weights - weights)
        ahead_side = new_side + lead * (new_side - by_side)
        weights, by_side, pace = new_weights, new_side, new_pace
        if max(np.abs(slope_side).max(), np.linalg.norm(slope)) < _ENOUGH:
            break
    return Linear(weights, by_side)
