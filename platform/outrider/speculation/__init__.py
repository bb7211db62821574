"""Proposals and the verification rules, on tensors."""

from outrider.speculation.coupled import CoupledRule, accepted_length
from outrider.speculation.noise import Stream, race_noise, stream_noise, stream_uniform
from outrider.speculation.rejection import DraftedRows, RejectionRule, residual
from outrider.speculation.sampling import RowSampling, choose, race, token_probs
from outrider.speculation.sparse import SPARSE_DRAFT, SparseDraft, SparseProbs

__all__ = [
    "SPARSE_DRAFT",
    "CoupledRule",
    "DraftedRows",
    "RejectionRule",
    "RowSampling",
    "SparseDraft",
    "SparseProbs",
    "Stream",
    "accepted_length",
    "choose",
    "race",
    "race_noise",
    "residual",
    "stream_noise",
    "stream_uniform",
    "token_probs",
]
