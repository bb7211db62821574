"""Proposals and the verification rules, on tensors."""

from outrider.speculation.coupled import CoupledRule, LogitsProcessor, accepted_length
from outrider.speculation.noise import race_noise
from outrider.speculation.sampling import RowSampling, choose, race, token_probs

__all__ = [
    "CoupledRule",
    "LogitsProcessor",
    "RowSampling",
    "accepted_length",
    "choose",
    "race",
    "race_noise",
    "token_probs",
]
