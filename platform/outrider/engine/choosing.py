"""From a step's logit rows to tokens: what each row's request asks of its logits, then the verification rule.

Shapes: n rows at which a token is chosen, p rows of prompt tokens whose log-probability is asked for, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from outrider.engine.plan import LogitRows, Plan
from outrider.engine.sequence import Sequence
from outrider.speculation import CoupledRule, accepted_length
from outrider.types import TokenLogprob

__all__ = ["Choices", "Chooser", "token_logprobs"]

Asking = list[tuple[Sequence, int, list[int]]]


@dataclass(frozen=True, slots=True)
class Choices:
    """The target's own token at each of n rows, in the batch's order; logprobs by row, where they were asked for.

    A token below zero says why there is none: `NOTHING_ALLOWED` or `COMPLETE`.
    """

    tokens: list[int]
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict)

    def told(self, first: int, count: int) -> tuple[TokenLogprob, ...]:
        """Logprobs of `count` rows from the `first` on; none for a request that did not ask."""
        return tuple(self.logprobs[row] for row in range(first, first + count)) if first in self.logprobs else ()


class Chooser:
    """Owned by one engine, on its thread."""

    def __init__(self, rule: CoupledRule) -> None:
        self.rule = rule

    def choose(self, plan: Plan, rows: LogitRows, positions: Tensor, logits: Tensor) -> Choices:
        """Choices for logits fp32 [n+p, V] of tokens that will stand at `positions` int64 [n+p].

        The logits may be changed. Logprobs of prompt tokens are added to their sequences.
        """
        if rows.prompt:
            _tell_prompt(rows, logits)
            chosen = torch.tensor(rows.chosen, dtype=torch.int64)
            logits, positions = logits.index_select(0, chosen), positions.index_select(0, chosen)
        if not rows.owners:
            return Choices([])
        missing: dict[int, int] = {}
        asking = _asking(plan)
        for sequence, first, draft in asking:
            if sequence.shaping is not None:
                found = sequence.shaping.apply(logits[first : first + len(draft) + 1].numpy(), draft)
                missing.update((first + row, reason) for row, reason in found.items())
        if plan.sampling.random:
            tokens = self.rule.choose(logits, plan.sampling.index(torch.tensor(rows.owners)), positions)
        else:
            tokens = logits.argmax(dim=-1).tolist()
        for row, reason in missing.items():
            tokens[row] = reason
        return Choices(tokens, _told(asking, tokens, logits) if asking else {})


def _asking(plan: Plan) -> Asking:
    """Sequences with something to do beyond sampling, their first row, and their draft."""
    found: Asking = []
    first = 0
    for sequence, draft in plan.chosen():
        if sequence.shaping is not None or sequence.request.sampling.logprobs is not None:
            found.append((sequence, first, draft))
        first += len(draft) + 1
    return found


def _told(asking: Asking, tokens: list[int], logits: Tensor) -> dict[int, TokenLogprob]:
    """Logprobs of the rows that can be emitted, for the sequences that ask."""
    wanted: list[int] = []
    counts: list[int] = []
    for sequence, first, draft in asking:
        count = sequence.request.sampling.logprobs
        if count is not None:
            chosen = tokens[first : first + len(draft) + 1]
            emitted = [first + k for k in range(accepted_length(draft, chosen) + 1) if chosen[k] >= 0]
            wanted += emitted
            counts += [count] * len(emitted)
    if not wanted:
        return {}
    found = token_logprobs(logits[wanted], [tokens[row] for row in wanted], counts)
    return dict(zip(wanted, found, strict=True))


def _tell_prompt(rows: LogitRows, logits: Tensor) -> None:
    """The model's own distribution: nothing that shapes the output is asked of a prompt."""
    for sequence, first, count in rows.prompt:
        start = len(sequence.prompt_logprobs)
        tokens = sequence.request.prompt_token_ids[start : start + count]
        asked = sequence.request.sampling.prompt_logprobs or 0
        sequence.prompt_logprobs += token_logprobs(logits[first : first + count], tokens, [asked] * count)


def token_logprobs(logits: Tensor, tokens: Seq[int], counts: Seq[int]) -> list[TokenLogprob]:
    """log softmax(logits fp32 [n, V]) of one token per row, with the `counts` most probable ones beside it.

    Fewer than that where fewer are possible at all.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    own = logprobs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1).tolist()
    best, ids = logprobs.topk(min(max(counts), logprobs.shape[1]), dim=-1)
    pairs = zip(ids.tolist(), best.tolist(), strict=True)
    return [
        TokenLogprob(token, value, tuple((i, p) for i, p in zip(row[:n], top[:n], strict=True) if p > -torch.inf))
        for token, value, n, (row, top) in zip(tokens, own, counts, pairs, strict=True)
    ]
