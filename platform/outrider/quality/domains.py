"""What a prompt is about: one of the domains that were measured, or none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.quality.features import SHAPES, Hashes
from outrider.quality.logistic import Linear, softmax

__all__ = ["OTHER", "DomainClassifier", "Guess", "Vocabulary"]

OTHER = "other"
_CONSTANT = np.ones(1)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Which features were seen while fitting: one bit for each slot of `bits`, packed."""

    bits: NDArray[np.uint8]

    SLOTS = 1 << 18

    @classmethod
    def of(cls, hashed: Sequence[Hashes]) -> Vocabulary:
        """Of features that at least two prompts share: what one alone has tells nothing of the next."""
        prompts = np.zeros(cls.SLOTS, np.int64)
        for each in hashed:
            prompts[np.unique(each & np.uint32(cls.SLOTS - 1))] += 1
        return cls(np.packbits(prompts >= 2))

    def coverage(self, hashed: Hashes) -> float:
        """Share of a prompt's words and pairs of words that were seen; 0 without any."""
        slots = hashed[:-SHAPES] & np.uint32(self.SLOTS - 1)
        seen = self.bits[slots >> 3] >> (7 - (slots & 7)).astype(np.uint8) & 1
        return float(seen.mean()) if len(seen) else 0.0


@dataclass(frozen=True, slots=True)
class Guess:
    """A classifier's view of a prompt.

    domain: its number, or None where no domain is likely enough or too few of the words are known. probabilities: by
    domain, supposing that it is one of them; 0 throughout where too few words are known.
    """

    domain: int | None
    probabilities: Floats


@dataclass(frozen=True, slots=True)
class DomainClassifier:
    """Multinomial logistic regression over hashed features, which knows when a prompt is none of its business.

    least_probability, least_coverage: below either no domain is named. usual_coverage: by domain, what all but a few of
    its own unseen prompts have; a prompt with less may be of the domain, but not of the kind that was measured.
    """

    names: tuple[str, ...]
    linear: Linear
    vocabulary: Vocabulary
    usual_coverage: Floats
    least_probability: float
    least_coverage: float

    def guess(self, hashed: Hashes, coverage: float) -> Guess:
        """The domain of a prompt whose words are known to that share."""
        if coverage < self.least_coverage:
            return Guess(None, np.zeros(len(self.names)))
        probabilities = softmax(self.linear.score(hashed, _CONSTANT))
        likeliest = int(probabilities.argmax())
        return Guess(likeliest if probabilities[likeliest] >= self.least_probability else None, probabilities)
