"""The two rules on a GPU: what the fused kernels take, from what the engine's rows say. Logits stay where they are.

Shapes: n rows, V vocabulary, R sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outrider_kernels import verification

if TYPE_CHECKING:
    from outrider.speculation.rejection import DraftedRows
    from outrider.speculation.sampling import RowSampling

__all__ = ["cut_columns", "fused_choose", "fused_verify"]


def fused_choose(logits: Tensor, rows: RowSampling, positions: Tensor) -> Tensor:
    """`outrider.speculation.sampling.choose` by one op, int64 [n] where the logits [n, V] are."""
    here = rows.to(logits.device)
    top_k, min_p = cut_columns(here)
    return verification.choose(
        logits,
        here.temperature,
        here.top_p,
        top_k,
        min_p,
        here.seeds,
        here.choices,
        positions.to(logits.device),
        random=rows.random,
        cuts=rows.cuts,
    )


def fused_verify(logits: Tensor, rows: RowSampling, drafted: DraftedRows) -> tuple[list[int], list[int]]:
    """`RejectionRule.verify` by one op; the host waits for two numbers of each sequence."""
    device = logits.device
    here = rows.to(device)
    assert here.rounds is not None
    top_k, min_p = cut_columns(here)
    lengths = torch.tensor(drafted.lengths, dtype=torch.int64)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    request = torch.arange(len(lengths)).repeat_interleave(lengths)
    slot = torch.arange(len(request)) - starts[request]
    asked = verification.VerifyRows(
        request.int().to(device),
        slot.int().to(device),
        here.temperature,
        here.top_p,
        top_k,
        min_p,
        here.seeds,
        here.choices,
        torch.zeros_like(here.seeds),  # the rule's noise is keyed by rounds
        here.rounds,
    )
    tokens = torch.where(drafted.judged, drafted.tokens, -1).to(device)
    q = drafted.q.to(device)
    found = verification.verify(
        logits,
        asked,
        verification.Drafted(tokens, q.tokens.contiguous(), q.probs.contiguous()),
        starts.int().to(device),
        random=rows.random,
        cuts=rows.cuts,
        rejects=True,
    )
    return found.accepted.tolist(), found.last.tolist()


def cut_columns(rows: RowSampling) -> tuple[Tensor, Tensor]:
    """top_k int64 and min_p fp32 [n]: zeros, which cut nothing, where no row has such a cut."""
    top_k = torch.zeros_like(rows.seeds) if rows.top_k is None else rows.top_k
    return top_k, torch.zeros_like(rows.temperature) if rows.min_p is None else rows.min_p
