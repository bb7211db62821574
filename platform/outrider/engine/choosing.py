"""From a step's logit rows to tokens: what each row's request asks of its logits, then the verification rule.

Shapes: n rows at which a token is chosen, p rows of prompt tokens whose log-probability is asked for, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from outrider.engine.drafting import NO_PLACE
from outrider.engine.plan import LogitRows, Plan
from outrider.engine.sequence import Sequence
from outrider.speculation import CoupledRule, DraftedRows, RejectionRule, SparseProbs
from outrider.types import TokenLogprob

__all__ = ["Choices", "Chooser", "token_logprobs"]

Rounds = list[tuple[Sequence, int, list[int]]]
"""Sequences, the first row of each, and their drafts."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The target's own token at each of n rows, in the batch's order; logprobs by row, where they were asked for.

    A token below zero says why there is none: `NOTHING_ALLOWED` or `COMPLETE`. emitted: by first row, what a round of a
    sequence under the rejection rule gives, and how much of it is draft; there the rows' tokens mean nothing.
    """

    tokens: list[int]
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict)
    emitted: dict[int, tuple[list[int], int]] = field(default_factory=dict)

    def told(self, first: int, count: int) -> tuple[TokenLogprob, ...]:
        """Logprobs of `count` rows from the `first` on; none for a request that did not ask."""
        return tuple(self.logprobs[row] for row in range(first, first + count)) if first in self.logprobs else ()


class Chooser:
    """Owned by one engine, on its thread."""

    def __init__(self, rule: CoupledRule, rejection: RejectionRule) -> None:
        self._rule = rule
        self._rejection = rejection

    def emit(self, chosen: Choices, first: int, draft: list[int]) -> tuple[list[int], int]:
        """The tokens of one round, 1 to ℓ+1, whose rows begin at `first`, and how many of the draft were accepted."""
        if first in chosen.emitted:
            return chosen.emitted[first]
        return self._rule.emit(draft, chosen.tokens[first : first + len(draft) + 1])

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
        asking, rejecting = _asking(plan)
        for sequence, first, draft in asking:
            if sequence.shaping is not None:
                found = sequence.shaping.apply(logits[first : first + len(draft) + 1].numpy(), draft)
                missing.update((first + row, reason) for row, reason in found.items())
        if rejecting:
            choices = self._choose_mixed(plan, rows, positions, logits, rejecting, missing)
        elif plan.sampling.random:
            choices = Choices(self._rule.choose(logits, plan.sampling.index(torch.tensor(rows.owners)), positions))
        else:
            choices = Choices(logits.argmax(dim=-1).tolist())
        for row, reason in missing.items():
            choices.tokens[row] = reason
        if asking:
            self._tell(choices, asking, logits)
        return choices

    def _choose_mixed(
        self,
        plan: Plan,
        rows: LogitRows,
        positions: Tensor,
        logits: Tensor,
        rejecting: Rounds,
        missing: dict[int, int],
    ) -> Choices:
        """Choices where some sequences are under the rejection rule, and the others race as ever."""
        under, drafted = judged_rows(plan, rejecting, missing)
        owners = torch.tensor(rows.owners)
        taken = torch.zeros(len(owners), dtype=torch.bool)
        taken[under] = True
        choices = Choices([0] * len(owners))
        if not bool(taken.all()):
            raced = (~taken).nonzero().flatten()
            tokens = self._rule.choose(logits[raced], plan.sampling.index(owners[raced]), positions[raced])
            for row, token in zip(raced.tolist(), tokens, strict=True):
                choices.tokens[row] = token
        rounds = torch.tensor([sequence.draws for sequence, _, _ in rejecting])
        sampling = replace(
            plan.sampling.index(owners[under]), rounds=rounds.repeat_interleave(torch.tensor(drafted.lengths))
        )
        accepted, last = self._rejection.verify(logits[under], sampling, drafted)
        for (sequence, first, draft), count, token in zip(rejecting, accepted, last, strict=True):
            sequence.draws += 1
            choices.emitted[first] = ([*draft[:count], missing.get(first + count, token)], count)
        return choices

    def _tell(self, choices: Choices, asking: Rounds, logits: Tensor) -> None:
        """Add logprobs of the rows that are emitted, for the sequences that ask."""
        told: list[tuple[int, int, int]] = []
        for sequence, first, draft in asking:
            count = sequence.request.sampling.logprobs
            if count is not None:
                emitted, _ = self.emit(choices, first, draft)
                told += [(row, token, count) for row, token in enumerate(emitted, start=first) if token >= 0]
        if told:
            wanted, tokens, counts = zip(*told, strict=True)
            found = token_logprobs(logits[list(wanted)], tokens, counts)
            choices.logprobs.update(zip(wanted, found, strict=True))


def _asking(plan: Plan) -> tuple[Rounds, Rounds]:
    """Sequences with something to do beyond sampling, and those under the rejection rule."""
    asking: Rounds = []
    rejecting: Rounds = []
    first = 0
    for sequence, draft in plan.chosen():
        if sequence.shaping is not None or sequence.request.sampling.logprobs is not None:
            asking.append((sequence, first, draft))
        if sequence.rejects:
            rejecting.append((sequence, first, draft))
        first += len(draft) + 1
    return asking, rejecting


def judged_rows(plan: Plan, rejecting: Rounds, missing: Collection[int]) -> tuple[Tensor, DraftedRows]:
    """Which rows belong to the `rejecting` sequences, int64 [n], and what was drafted for each of them.

    missing: rows at which no token is allowed; nothing is accepted there.
    """
    rows: list[int] = []
    tokens: list[int] = []
    places: list[int] = []
    judged: list[bool] = []
    for sequence, first, draft in rejecting:
        end = first + len(draft)
        place = 0 if plan.q is None else plan.q.first.get(sequence.key, 0)
        rows.extend(range(first, end + 1))
        tokens += [*draft, 0]
        places.extend(range(place, place + len(draft)))
        places.append(place + len(draft) if sequence.key in plan.refused else NO_PLACE)
        judged += [*(row not in missing for row in range(first, end)), False]
    q = SparseProbs.empty(len(rows), 1) if plan.q is None else plan.q.at(torch.tensor(places))
    lengths = [len(draft) + 1 for _, _, draft in rejecting]
    return torch.tensor(rows), DraftedRows(torch.tensor(tokens), q, torch.tensor(judged), lengths)


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
