"""The schedule part of a step: who decodes how deep, and how much prompt rides along."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from outrider.engine.costing import Costing
from outrider.engine.drafting import Drafting, Proposals
from outrider.engine.pacing import Pacing, needs
from outrider.engine.plan import NOBODY, Outline, Plan, cut_refused, row_sampling
from outrider.engine.pricing import CostMeter
from outrider.engine.probing import Probes
from outrider.engine.sequence import Sequence
from outrider.engine.settings import EngineSettings
from outrider.engine.sharing import prompt_tokens, seat
from outrider.scheduling import (
    Asynchronous,
    Budget,
    FixedDepth,
    Forecast,
    NoDrafts,
    PrefixScheduler,
    Requests,
    scheduler_named,
    traffic_class,
)
from outrider.scheduling.scheduler import Floats
from outrider.speculation import RowSampling

__all__ = ["Planner"]

_PROMPT_ROWS = 64
"""Prompt tokens of a step whose logits are kept: at a vocabulary of 150,000 each takes 0.6 MB, twice."""
_REUSED_ROUNDS = 16
"""A budget is kept for so many rounds of the same requests: making one takes 0.1 ms, a sixth of a small step."""
_CLEARLY_BELOW = 0.9
"""Where drafting gains less than that, as many requests, whoever they are, are not asked again for a while."""
_CLOSED_ROUNDS = 32


class Planner:
    """Turns the running sequences into a plan, drafting on the way."""

    def __init__(self, settings: EngineSettings, costing: Costing, drafting: Drafting) -> None:
        self._settings = settings
        self._costing = costing
        self._drafting = drafting
        self._scheduler = scheduler_named(settings.scheduler)
        self._sampled: tuple[list[int], RowSampling] = ([], row_sampling([]))
        self._allowance = np.array([-1 if settings.tenant_draft_tokens is None else settings.tenant_draft_tokens])
        self._room_tokens = 0
        self.forget()

    def forget(self) -> None:
        """What was learnt was of another kind of step, drafter or scheduler."""
        self._costs = CostMeter(self._costing)
        self._probes = Probes()
        self._forecast = Forecast(self._drafting.block_size)
        self._round_s = 0.0
        self._needed: Floats = np.empty(0)
        self._closed_rounds: dict[int, int] = {}
        self._behind = False
        self._kept: tuple[list[int], Budget, int] | None = None

    def use_scheduler(self, scheduler: PrefixScheduler) -> None:
        """Let another one decide from now on, with nothing learnt."""
        self._scheduler = scheduler
        self.forget()

    def follow(self, sequences: list[Sequence]) -> None:
        """Another drafter is attached: what was learnt is of the last one's blocks."""
        for sequence in sequences:
            sequence.forecast = None
        self.forget()

    def outline(self, running: list[Sequence]) -> Outline:
        """What is decided of the next step before anything is drafted."""
        now_s = time.monotonic()
        decoding = [s for s in running if s.decoding]
        prefilling = [s for s in running if not s.decoding]
        pacing = Pacing(decoding if self._scheduler.paces else [], self._costs, now_s)
        self._behind = pacing.behind
        prompt_block = self._settings.block_size if prefilling else 0
        decoding, step_tokens = seat(decoding, pacing.company(decoding), self._settings.max_step_tokens, prompt_block)
        for sequence in decoding:
            sequence.served_s = now_s
        prefilling.sort(key=lambda s: -s.urgency(now_s))
        prefill = self._prefill_chunks(decoding, prefilling, step_tokens, pacing)
        prefill_tokens = sum(length for _, length in prefill)
        sampling = self._sampling([*decoding, *(s for s, _ in prefill)])
        self._room_tokens = max(step_tokens - prefill_tokens - len(decoding), 0)
        outline = Outline(decoding, prefill, sampling, room_tokens=self._room_tokens)
        if decoding and self._drafting.ready and not self._closed(decoding):
            outline.caps = self._depth_caps(decoding)
            outline.budget = self._budget(decoding, outline.caps, prefill_tokens)
            drafted = outline.budget.drafted
            outline.rows = [row for row, cap in enumerate(outline.caps) if cap > 0 and drafted[row]]
            outline.observed = self._observed(outline)
        return outline

    def plan(self, outline: Outline) -> Plan:
        """The step, its blocks drafted over the link and cut here."""
        decoding, rows, sampling = outline.decoding, outline.rows, outline.sampling
        drafts: list[list[int]] = [[] for _ in decoding]
        expected = [0.0] * len(decoding)
        draft_s, q, refused = 0.0, None, NOBODY
        proposals = None
        if rows:
            who = sampling if len(rows) == len(sampling) else sampling.index(torch.tensor(rows))
            proposals = self._drafting.propose([decoding[row] for row in rows], who)
        if proposals is not None:
            draft_s = proposals.wait_s
            self._costs.learn_draft(len(rows), draft_s)
            drafts, expected = self._cut(outline, proposals)
            refused, q = cut_refused(decoding, drafts), proposals.q
        return Plan(list(zip(decoding, drafts, strict=True)), outline.prefill, sampling, draft_s, q, refused, expected)

    def cut_elsewhere(
        self, outline: Outline, proposals: Proposals, depths: list[int]
    ) -> tuple[list[list[int]], list[float]]:
        """As `_cut`, for blocks that the device has cut already to `depths` [R]."""
        self._costs.learn_draft(len(outline.rows), proposals.wait_s)
        return self._admitted(outline, proposals, depths, [depths[row] for row in outline.rows])

    def leave_cutting(self, outline: Outline) -> bool:
        """Whether a device can cut the blocks, by caps and a number of tokens, which are then in the outline.

        It repeats the asynchronous scheduler, of which a fixed depth is a case, and knows nothing of tenants.
        """
        if self._settings.tenant_draft_tokens is not None:
            return False
        if isinstance(self._scheduler, FixedDepth):
            share = min(self._scheduler.depth, outline.room_tokens // max(len(outline.decoding), 1))
            cut = [row for place, row in enumerate(outline.rows) if place not in outline.observed]
            for row in cut:
                outline.caps[row] = min(outline.caps[row], share)
            outline.budget = replace(outline.budget, tokens=sum(outline.caps[row] for row in cut))
            return True
        return type(self._scheduler) is Asynchronous

    def _sampling(self, sequences: list[Sequence]) -> RowSampling:
        """Parameters row by row; kept while the same sequences run, since they never change."""
        keys = [s.key for s in sequences]
        if keys != self._sampled[0]:
            self._sampled = keys, row_sampling(sequences)
        return self._sampled[1]

    def learn(self, plan: Plan, tokens: int, round_s: float) -> None:
        """Take in what became of a plan, once it is committed: the tokens it computed and how long the round took."""
        self._round_s = round_s
        self._probes.save(round_s)
        if plan.decoding and not plan.prefill:
            self._costs.learn(len(plan.decoding), tokens, plan.draft_s, round_s)
        for (sequence, draft), expected in zip(plan.decoding, plan.expected, strict=True):
            if draft and sequence.finish is None:
                self._forecast.learn(_kind(sequence), expected, sequence.rounds[-1][1])

    # before drafting

    def _closed(self, decoding: list[Sequence]) -> bool:
        """Whether drafting for so many requests was clearly no use lately."""
        size = len(decoding).bit_length()
        left = self._closed_rounds.get(size, 0)
        if not left or self._behind:
            return False
        self._closed_rounds[size] = left - 1
        return True

    def _budget(self, decoding: list[Sequence], caps: list[int], prefill_tokens: int) -> Budget:
        """Whom to draft for, from what is at least one round old."""
        keys = [s.key for s in decoding]
        self._needed = np.empty(0)
        if self._kept and not (prefill_tokens or self._behind) and self._kept[0] == keys and self._kept[2] > 0:
            budget = self._kept[1]
            self._kept = (keys, budget, self._kept[2] - 1)
            return budget
        expected = self._forecast.expected([_kind(s) for s in decoding], [s.forecast for s in decoding])
        if self._behind:
            self._needed = needs(decoding, time.monotonic(), self._round_s)
        requests = self._requests(decoding, caps, expected, self._room_tokens)
        costs = self._costs.costs(len(decoding), prefill_tokens)
        budget = self._scheduler.budget(requests, costs)
        lasting = not len(self._needed) and max(caps) > 0
        self._kept = (keys, budget, _REUSED_ROUNDS) if lasting else None
        if self._scheduler.explores:
            if budget.drafted.any() and not self._costs.knows_plain(len(decoding)) and not prefill_tokens:
                self._kept = None
                return NoDrafts().budget(requests, costs)
            if not len(self._needed) and 0.0 < budget.gain < _CLEARLY_BELOW:
                self._closed_rounds[len(decoding).bit_length()] = _CLOSED_ROUNDS
            probes = self._probes.pick(requests, costs, budget, [len(s.rounds) - s.drafted_round for s in decoding])
            if probes is not None:
                return self._scheduler.budget(replace(requests, probes=probes), costs)
        return budget

    def _requests(self, decoding: list[Sequence], caps: list[int], expected: Floats, room_tokens: int) -> Requests:
        tenants: dict[str, int] = {}
        limited = self._allowance[0] >= 0
        return Requests(
            caps=np.array(caps),
            weights=np.array([s.request.batch_class.weight for s in decoding]),
            expected=expected,
            lag_tokens=np.array([s.num_computed - s.draft_held for s in decoding]),
            remaining=np.array([s.remaining for s in decoding]),
            needed=self._needed,
            tenants=np.array([tenants.setdefault(s.request.cache_salt, len(tenants)) for s in decoding if limited]),
            allowances=self._allowance.repeat(len(tenants)),
            room_tokens=room_tokens,
        )

    def _depth_caps(self, decoding: list[Sequence]) -> list[int]:
        """Largest ℓ per decoding request: its own limit, its memory, what anchors and prompts leave of the step."""
        block_size, room = self._drafting.block_size, self._room_tokens
        return [max(0, min(s.depth_limit(block_size), s.spare_positions, room)) for s in decoding]

    def _prefill_chunks(
        self, decoding: list[Sequence], prefilling: list[Sequence], step_tokens: int, pacing: Pacing
    ) -> list[tuple[Sequence, int]]:
        """Prompt tokens of this step: what batch classes tolerate, or targets, one at least."""
        budget = prompt_tokens(decoding, step_tokens, self._settings.block_size)
        if decoding and (room := pacing.prompt_tokens(len(decoding))) is not None:
            budget = min(budget, max(room, 1))
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

    # after drafting

    def _observed(self, outline: Outline) -> set[int]:
        """Places among the drafted rows that verify their whole block: chosen without looking at what is drafted, while
        the step has room for all of it.
        """
        observed: set[int] = set()
        room_tokens = self._room_tokens
        for place in self._drafting.observer.slice([outline.decoding[row] for row in outline.rows]):
            if (whole := outline.caps[outline.rows[place]]) <= room_tokens:
                observed.add(place)
                room_tokens -= whole
        return observed

    def _cut(self, outline: Outline, proposals: Proposals) -> tuple[list[list[int]], list[float]]:
        """A prefix of each block, by live confidences, and the tokens expected to be accepted of it.

        Under the rejection rule what a block contains caps nothing: it is cut to what may follow once its depth is
        settled.
        """
        decoding, caps, rows = outline.decoding, outline.caps, outline.rows
        survival = np.zeros((len(decoding), proposals.survival.shape[1]))
        survival[rows] = proposals.survival
        room = [min(caps[row], len(block)) for row, block in zip(rows, proposals.tokens, strict=True)]
        for row, block in zip(rows, proposals.tokens, strict=True):
            shaping = decoding[row].shaping
            if shaping is not None and not decoding[row].rejects:
                caps[row] = min(caps[row], shaping.admissible(block))
        room_tokens = self._room_tokens - sum(caps[rows[place]] for place in outline.observed)
        asked = self._requests(decoding, caps, survival, room_tokens)  # only `budget` reads what was expected
        costs = self._costs.costs(len(decoding), sum(length for _, length in outline.prefill))
        depths = self._scheduler.fill(asked, costs, outline.budget, survival).tolist()
        for place in outline.observed:
            depths[rows[place]] = caps[rows[place]]
        return self._admitted(outline, proposals, depths, room)

    def _admitted(
        self, outline: Outline, proposals: Proposals, depths: list[int], room: list[int]
    ) -> tuple[list[list[int]], list[float]]:
        """Blocks cut to `depths` [R], and what is learnt from them before they are verified.

        room: of each drafted row, the slots that an observed block would have had an outcome for.
        """
        decoding = outline.decoding
        drafts: list[list[int]] = [[] for _ in decoding]
        expected = [0.0] * len(decoding)
        for place, (row, block) in enumerate(zip(outline.rows, proposals.tokens, strict=True)):
            sequence, survival = decoding[row], proposals.survival[place]
            drafts[row] = block[: depths[row]]
            expected[row] = float(survival[: len(drafts[row])].sum())
            sequence.drafted_tokens += len(block)
            sequence.drafted_round = len(sequence.rounds)
            if place in outline.observed and room[place]:
                # what a grammar cut off counts as verified: it could only have been rejected
                self._drafting.observer.watch(sequence, proposals.logits[place], room[place])
            if block:
                sequence.forecast = self._forecast.after(_kind(sequence), sequence.forecast, survival)
        return drafts, expected


def _kind(sequence: Sequence) -> str:
    """Requests of one kind have one common forecast."""
    return "rejection" if sequence.rejects else traffic_class(sequence.request.sampling.temperature)
