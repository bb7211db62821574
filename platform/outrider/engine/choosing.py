"""From a step's logit rows to tokens: what each row's request asks of its logits, then the verification rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from outrider.engine.plan import Plan
from outrider.speculation import CoupledRule
from outrider.types import TokenLogprob

__all__ = ["Choices", "Chooser"]


@dataclass(frozen=True, slots=True)
class Choices:
    """The target's own token at every logit row, in the batch's order; logprobs is as long, or empty if none asked."""

    tokens: list[int]
    logprobs: tuple[TokenLogprob, ...] = ()


class Chooser:
    """Owned by one engine, on its thread."""

    def __init__(self, rule: CoupledRule) -> None:
        self.rule = rule

    def choose(self, plan: Plan, owners: list[int], positions: Tensor, logits: Tensor) -> Choices:
        """Choices for logits fp32 [n, V] of tokens that will stand at `positions` int64 [n].

        owners: the sampling row of `plan` that each logit row belongs to.
        """
        if not plan.sampling.random and not self.rule.processors:
            return Choices(logits.argmax(dim=-1).tolist())
        rows = plan.sampling.index(torch.tensor(owners))
        prefixes = plan.prefixes() if self.rule.processors else None
        return Choices(self.rule.choose(logits, rows, positions, prefixes))
