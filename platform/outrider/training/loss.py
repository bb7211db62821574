"""Held-out loss of a target, per domain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["domain_loss"]

LONGEST_TOKENS = 512


def domain_loss(model: Any, conversations: Iterable[tuple[str, list[int]]]) -> dict[str, float]:
    """Mean negative log-likelihood in nats per token, each document from position 0: domain → loss."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    with torch.inference_mode():
        for domain, tokens in conversations:
            ids = torch.tensor([tokens[:LONGEST_TOKENS]])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            sums[domain] = sums.get(domain, 0.0) + float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            counts[domain] = counts.get(domain, 0) + ids.shape[1] - 1
    return {domain: sums[domain] / counts[domain] for domain in sorted(sums)}
