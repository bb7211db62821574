"""The schedule part of a step: who decodes how deep, and how much prompt rides along."""

from __future__ import annotations

import numpy as np
import torch

from outrider.engine.drafting import Drafting, Proposals
from outrider.engine.gate import DraftGate, RoundCosts
from outrider.engine.plan import NOBODY, Plan, cut_refused, row_sampling
from outrider.engine.sequence import Sequence
from outrider.engine.settings import EngineSettings
from outrider.scheduling import StepCostCurve, algorithm1

__all__ = ["Planner"]

_NEW_ROUNDS = 4
"""A request with fewer rounds than this has told the gate nothing of itself yet."""
_PROMPT_ROWS = 64
"""Prompt tokens of a step whose logits are kept: at a vocabulary of 150,000 each takes 0.6 MB, twice."""


class Planner:
    """Turns the running sequences into a plan, drafting on the way."""

    def __init__(self, settings: EngineSettings, curve: StepCostCurve, drafting: Drafting) -> None:
        self._settings = settings
        self._drafting = drafting
        self.use(curve)

    def use(self, curve: StepCostCurve) -> None:
        """Plan with another curve from now on; what the gate knew was of the old one's steps."""
        self._curve = curve
        self._gate = DraftGate(curve)
        self.costs = RoundCosts()

    def plan(self, running: list[Sequence]) -> Plan:
        """The next step."""
        decoding = [s for s in running if s.decoding]
        prefilling = [s for s in running if not s.decoding]
        sampling = row_sampling(decoding + prefilling)
        step_tokens = min([self._settings.max_step_tokens, *(s.request.batch_class.co_batch_tokens for s in decoding)])
        prefill = self._prefill_chunks(decoding, prefilling, step_tokens)
        prefill_tokens = sum(length for _, length in prefill)
        caps = self._depth_caps(decoding, step_tokens - prefill_tokens)
        drafts: list[list[int]] = [[] for _ in decoding]
        drafted = [row for row, cap in enumerate(caps) if cap > 0]
        others = len(decoding) - len(drafted) + prefill_tokens
        proposals, refused = None, NOBODY
        drafting = [decoding[row] for row in drafted]
        whole = self._drafting.observer.slice(drafting)
        new = sum(len(sequence.rounds) < _NEW_ROUNDS for sequence in drafting)
        if drafted and self._drafting.ready and self._gate.opens(len(drafted), new, others, self.costs):
            proposals = self._drafting.propose(drafting, sampling.index(torch.tensor(drafted)))
        if proposals is not None:
            admitted = self._cut(drafting, proposals, [caps[row] for row in drafted], others, whole)
            refused = cut_refused(drafting, admitted)
            for row, draft in zip(drafted, admitted, strict=True):
                drafts[row] = draft
        draft_s = proposals.wait_s if proposals else 0.0
        q = proposals.q if proposals else None
        return Plan(list(zip(decoding, drafts, strict=True)), prefill, sampling, draft_s, q, refused)

    def learn(self, plan: Plan, tokens: int, round_s: float) -> None:
        """Take in what became of a plan, once it is committed: the tokens it computed and how long the round took."""
        if not plan.prefill:
            rest_s = round_s - plan.draft_s - float(self._curve.seconds_at(tokens))
            self.costs.add(rest_s, drafted=plan.draft_s > 0)
        if plan.draft_s and plan.decoding:
            verified = sum(1 + len(draft) for _, draft in plan.decoding)
            emitted = sum(1 + sequence.rounds[-1][1] for sequence, _ in plan.decoding)
            self._gate.record(len(plan.decoding), verified, emitted, plan.draft_s)

    def _prefill_chunks(
        self, decoding: list[Sequence], prefilling: list[Sequence], step_tokens: int
    ) -> list[tuple[Sequence, int]]:
        """Prompt tokens of this step: what the batch classes of the decoding requests tolerate, one block at least."""
        budget = self._settings.max_step_tokens
        if decoding:
            share = min(s.request.batch_class.prefill_share for s in decoding)
            budget = min(int(share * step_tokens), step_tokens - len(decoding))
            budget = max(budget, self._settings.block_size)
        chunks = []
        rows = _PROMPT_ROWS
        for sequence in prefilling:
            length = min(len(sequence.tokens) - sequence.num_computed, budget)
            if told := len(sequence.prompt_rows(length)):
                length = min(length, rows)
                rows -= min(told, rows)
            if length > 0:
                chunks.append((sequence, length))
                budget -= length
        return chunks

    def _depth_caps(self, decoding: list[Sequence], step_tokens: int) -> list[int]:
        """Largest ℓ per decoding request: its own limit, its memory, an equal share of what prefill leaves."""
        block_size = self._drafting.block_size
        share = max(0, step_tokens // max(1, len(decoding)) - 1)
        return [min(s.depth_limit(block_size), s.spare_positions, share) for s in decoding]

    def _cut(
        self, sequences: list[Sequence], proposals: Proposals, caps: list[int], others: int, whole: list[int]
    ) -> list[list[int]]:
        """A prefix of each block, admitted by Algorithm 1 on the whole round's cost; rows of `whole` are not cut
        for it, and observed.
        """
        for row in whole:
            if verified := min(caps[row], len(proposals.tokens[row])):
                self._drafting.observer.watch(sequences[row], proposals.logits[row], verified)
        for row, sequence in enumerate(sequences):
            if sequence.shaping is not None and not sequence.rejects:
                caps[row] = min(caps[row], sequence.shaping.admissible(proposals.tokens[row]))
        depths = algorithm1(
            proposals.survival,
            np.array(caps),
            self._curve,
            fixed_s=proposals.wait_s + self.costs.drafted.value,
            other_tokens=others,
            weights=np.array([s.request.batch_class.weight for s in sequences]),
        )
        for row in whole:
            depths[row] = caps[row]
        for sequence, block in zip(sequences, proposals.tokens, strict=True):
            sequence.drafted_tokens += len(block)
        return [block[: int(depth)] for block, depth in zip(proposals.tokens, depths, strict=True)]
