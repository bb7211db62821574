"""Rounds on the device: the host plans, stages, launches, and waits once, for the tokens that were accepted.

Two ways through a round. `verify` takes blocks that the host holds already, from a drafter behind the link. `launch`
and `land` are for rounds without drafts and those whose drafter is on the same device, which drafts, cuts and verifies
without the host seeing the blocks first: the host launches one round before it has read the last one, so that its own
work does not leave the device idle. Rows whose logits the host must see (penalties, grammars, log-probabilities) take
neither.

Shapes: R requests, γ block size, w width of q.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from outrider.engine.cache import PagedCache
from outrider.engine.choosing import Choices
from outrider.engine.device.calibrated import Calibrated, class_of
from outrider.engine.device.colocated import Colocated, DraftShape
from outrider.engine.device.cutting import cut
from outrider.engine.device.flight import Clock, Flight, carried_rows
from outrider.engine.device.layout import Drafts
from outrider.engine.device.staging import count_draws, stage_members, stage_sampling
from outrider.engine.device.step import Depths, DeviceStep, Forward, StepShape
from outrider.engine.device.tables import BlockTables
from outrider.engine.drafting import Drafting
from outrider.engine.plan import Outline, Plan
from outrider.engine.sequence import Sequence
from outrider.engine.settings import EngineSettings

__all__ = ["DeviceRounds"]


class DeviceRounds:
    """Owns the device's buffers of one engine, on its thread."""

    def __init__(self, forward: Forward, cache: PagedCache, settings: EngineSettings, most_blocks: int) -> None:
        device = cache.block_slots.device
        self._settings, self._forward, self._cache = settings, forward, cache
        self.tables = BlockTables(settings.max_running_requests, most_blocks, device)
        self._colocated: Colocated | None = None
        self._make_step(1)

    def _make_step(self, gamma: int) -> None:
        settings = self._settings
        self.step = DeviceStep(
            self._forward,
            self._cache,
            requests=settings.max_running_requests,
            tokens=settings.max_step_tokens,
            gamma=gamma,
            tables=self.tables.entries,
        )
        self._calibrated = Calibrated(gamma, self.step.device)

    def follow(self, drafting: Drafting) -> None:
        """Another drafter is attached, or none."""
        gamma = max(1, drafting.block_size)
        if gamma != self.step.gamma:
            self._make_step(gamma)
        self.step.graphs.forget()
        most = self._settings.max_running_requests
        self._colocated = Colocated.over(drafting.link, self._cache, self.tables.entries, most)

    @property
    def colocated(self) -> bool:
        """Whether the attached drafter lives on this device."""
        return self._colocated is not None

    @staticmethod
    def takes(sequences: Iterable[Sequence]) -> bool:
        """Whether none of them asks for something that only the host computes from logits."""
        return all(
            s.shaping is None and s.request.sampling.logprobs is None and s.request.sampling.prompt_logprobs is None
            for s in sequences
        )

    # blocks that the host holds

    @torch.inference_mode()
    def verify(self, plan: Plan, running: list[Sequence]) -> Choices:
        """Run a plan and wait for it. Blocks under the rejection rule must come with q."""
        self._begin(running)
        stage = self.step.stage.host
        count = len(plan.decoding)
        for row, (_, draft) in enumerate(plan.decoding):
            stage["blocks"][row, : len(draft)] = draft
        stage["drafted"][:count] = np.arange(count)
        stage["caps"][:count] = [len(draft) for _, draft in plan.decoding]
        tokens = sum(len(draft) for _, draft in plan.decoding)
        decoding = [sequence for sequence, _ in plan.decoding]
        shape = self._stage(Outline(decoding, plan.prefill, plan.sampling), tokens, None)
        width = self._stage_q(plan) if shape.rejects else 0
        self.step.stage.send()
        self.step.run(shape, self.step.told_depths(width), key=f"told{width}", capture=not plan.prefill)
        self.step.wait()
        count_draws([*decoding, *(sequence for sequence, _ in plan.prefill)])
        found = self.step.results.host
        choices, row = Choices([]), 0
        for place, (_, draft) in enumerate(plan.decoding):
            accepted = int(found["accepted"][place])
            choices.emitted[row] = ([*draft[:accepted], int(found["last"][place])], accepted)
            row += len(draft) + 1
        for place, (sequence, length) in enumerate(plan.prefill, start=count):
            if sequence.num_computed + length == len(sequence.tokens):
                choices.emitted[row] = ([int(found["last"][place])], 0)
                row += 1
        return choices

    def _stage_q(self, plan: Plan) -> int:
        """q of the plan's drafts to the device; its width."""
        if plan.q is None:
            self.step.q_memory(1)[1].zero_()
            return 1
        q = plan.q.q
        width = q.probs.shape[1]
        tokens, probs = self.step.q_memory(width)
        probs.zero_()
        for row, (sequence, draft) in enumerate(plan.decoding):
            if draft and sequence.key in plan.q.first:
                first = plan.q.first[sequence.key]
                count = min(len(draft), self.step.gamma)
                tokens[row, :count] = q.tokens[first : first + count].to(tokens.device, non_blocking=True)
                probs[row, :count] = q.probs[first : first + count].to(probs.device, non_blocking=True)
        return width

    # rounds that the host learns of later

    @torch.inference_mode()
    def launch(
        self, outline: Outline, drafting: Drafting, running: list[Sequence], before: Flight | None
    ) -> Flight | None:
        """Start a round without waiting for the one `before`, which may still be on its way: what it will have emitted
        is read on the device. Prompt chunks count as computed from here on. None, with nothing done, where the drafter
        lost a context; it is refilled by a later round.
        """
        self._begin(running)
        stage = self.step.stage.host
        count, rows = len(outline.decoding), outline.rows
        drafted = self._stage_draft(drafting, outline, before) if rows else None
        if rows and drafted is None:
            return None
        stage["drafted"][:count], stage["caps"][:count] = -1, 0
        tokens = 0
        if drafted is not None:
            tokens = self._stage_cut(outline)
        shape = self._stage(outline, tokens, before)
        self.step.stage.send()
        flight = Flight(outline, rows, [], {}, None, None, time.perf_counter())
        if drafted is None:
            self._run_told(shape, capture=not outline.prefill)
        else:
            flight.pending = [(outline.decoding[row], outline.decoding[row].draft_held) for row in rows]
            started = Clock(self.step.device)
            key, cut = self._draft(drafted, drafting, shape)
            flight.clocks = (started, Clock(self.step.device))
            self.step.run(shape, cut, key=key, capture=not outline.prefill)
        flight.results, flight.done = self.step.results.host, self.step.fetch()
        members = flight.members
        flight.alive = [sequence.preemptions for sequence in members]
        count_draws(members)
        for sequence, length in outline.prefill:
            sequence.num_computed += length
            if sequence.num_computed == len(sequence.tokens):
                flight.ended.add(sequence.key)
        return flight

    def _run_told(self, shape: StepShape, *, capture: bool) -> None:
        width = 1 if shape.rejects else 0
        if width:
            self.step.q_memory(1)[1].zero_()
        self.step.run(shape, self.step.told_depths(width), key=f"told{width}", capture=capture)

    def _draft(self, drafted: DraftShape, drafting: Drafting, shape: StepShape) -> tuple[str, Depths]:
        """Draft the staged blocks; how they will be cut, and the name of it."""
        assert self._colocated is not None
        if self._calibrated.follow(drafting.observer):
            self.step.graphs.forget()
        known = self._calibrated.known
        results, sent = self.step.results.device, self.step.stage.device
        sampled = self._colocated.draft(drafted, results)
        results["blocks"][: len(sampled.tokens)] = sampled.tokens
        results["confidence"][: len(sampled.tokens)] = sampled.confidence
        q: tuple[Tensor, ...] = self.step.q_memory(1) if shape.rejects else ()
        if sampled.q_tokens is not None and sampled.q_probs is not None and shape.rejects:
            q = self.step.q_memory(sampled.q_tokens.shape[-1])
            for kept, found in zip(q, (sampled.q_tokens, sampled.q_probs), strict=True):
                kept[: len(found)] = found

        def cut_blocks(caps: Tensor) -> Drafts:
            return Drafts(results["blocks"], cut(results["confidence"], sent, caps, known), *q)

        return f"live{q[0].shape[-1] if q else 0}", cut_blocks

    def _stage_draft(self, drafting: Drafting, outline: Outline, before: Flight | None) -> DraftShape | None:
        colocated, sampling = self._colocated, outline.sampling
        assert colocated is not None
        colocated.stage.flip()
        colocated.free(drafting.take_frees())
        stage = colocated.stage.host
        who = [outline.decoding[row] for row in outline.rows]
        carried = carried_rows(who, before)
        advance = self.step.gamma + 1
        appended = 0
        for place, sequence in enumerate(who):
            known = sequence.num_computed - sequence.draft_held
            most = known + (advance if carried[place] >= 0 else 0)
            slot = colocated.reserve(sequence.key, sequence.draft_held, most)
            if slot is None:  # never while both sides keep their books
                sequence.draft_held = 0
                return None
            stage["slots"][place], stage["lanes"][place] = slot, self.tables.lane(sequence)
            stage["held"][place], stage["counts"][place] = sequence.draft_held, known
            appended += most
        count = len(who)
        stage["carried"][:count] = carried
        stage["slots"][count:], stage["counts"][count:], stage["held"][count:], stage["carried"][count:] = -1, 0, 0, -1
        stage["anchors"][:count] = [s.tokens[-1] for s in who]
        stage_sampling(stage, sampling, outline.rows, [s.draws if s.rejects else -1 for s in who])
        count_draws(who)
        return DraftShape(count, appended, sampling.random, sampling.cuts, any(s.rejects for s in who))

    def _stage_cut(self, outline: Outline) -> int:
        """What cutting the blocks must know; how many draft tokens are verified at most."""
        stage, rows, count = self.step.stage.host, outline.rows, len(outline.decoding)
        stage["drafted"][rows] = np.arange(len(rows))
        stage["caps"][rows] = [outline.caps[row] for row in rows]
        stage["whole"][:count] = 0
        stage["whole"][[rows[place] for place in outline.observed]] = 1
        stage["weights"][:count] = [s.request.batch_class.weight for s in outline.decoding]
        stage["classes"][:count] = [class_of(s) for s in outline.decoding]
        whole = sum(outline.caps[rows[place]] for place in outline.observed)
        most = sum(outline.caps[row] for row in rows)
        tokens = min(outline.budget.tokens + whole, most, outline.room_tokens)
        stage["allowed"][0] = tokens
        return tokens

    def settle(self, flight: Flight) -> None:
        """Take into the books what a flight gave to the drafter, once all that it was carried on from is committed."""
        assert self._colocated is not None or not flight.pending
        for sequence, held in flight.pending:
            if sequence.finish is None and sequence.blocks and self._colocated is not None:
                self._colocated.count(sequence.key, held, sequence.num_computed - held)
                sequence.draft_held = sequence.num_computed
        flight.pending = []

    # both

    def _begin(self, running: list[Sequence]) -> None:
        """Turn to the buffers of the next round, and let the block tables follow."""
        self.step.stage.flip()
        self.step.results.flip()
        self.tables.follow(running)

    def _stage(self, outline: Outline, drafted_tokens: int, before: Flight | None) -> StepShape:
        return stage_members(self.step, self.tables, outline, self._settings.block_size, drafted_tokens, before)
