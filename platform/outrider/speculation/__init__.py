"""Proposals and the verification rules, on tensors."""

from outrider.speculation.coupled import CoupledRule, accepted_length
from outrider.speculation.noise import race_noise
from outrider.speculation.sampling import RowSampling, choose, race, token_probs

__all__ = [
    "CoupledRule",
    "RowSampling",
    "accepted_length",
    "choose",
    "race",
    "race_noise",
    "token_probs",
]
