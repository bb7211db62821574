"""Whether a model's answer to a prompt will be right: a calibrated probability per model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.quality.features import Hashes
from outrider.quality.logistic import Linear, sigmoid

__all__ = ["Sufficiency", "sides"]

Floats = NDArray[np.float64]
_CONSTANT = np.ones(1)


@dataclass(frozen=True, slots=True)
class Sufficiency:
    """Logistic regression over hashed features and domain, one output per model, and Platt's scaling of its scores.

    slope, offset: [models], fitted on scores of prompts that the regression had not seen (J. Platt 1999). Isotonic
    regression on the same scores was no better (Brier within 0.0004 of it either way, three splits, two models).
    """

    models: tuple[str, ...]
    linear: Linear
    slope: Floats
    offset: Floats

    def probabilities(self, hashed: Hashes, domains: Floats) -> Floats:
        """By model; domains: the probability of each domain, 1 for the one that a tag names."""
        scores = self.linear.score(hashed, np.concatenate((_CONSTANT, domains)))
        return sigmoid(self.slope * scores + self.offset)


def sides(domains: Floats) -> Floats:
    """What the regression knows beside features: a constant, and the domains' probabilities [rows, domains]."""
    return np.concatenate((np.ones((len(domains), 1)), domains), axis=1)
