"""Rounds on the device: the host plans, stages, launches, and waits once, for the tokens that were accepted.

Two ways through a round. `verify` takes blocks that the host holds already (from a drafter behind the link, or none),
`draft_and_verify` has a drafter on the same device, whose blocks the device cuts and verifies without the host seeing
them first. Rows whose logits the host must see (penalties, grammars, log-probabilities) take neither.

Shapes: R requests, γ block size, w width of q.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outrider.engine.cache import PagedCache
from outrider.engine.choosing import Choices
from outrider.engine.device.colocated import Colocated, DraftShape
from outrider.engine.device.cutting import Calibrations, depths, survival
from outrider.engine.device.layout import Drafts
from outrider.engine.device.step import DeviceStep, Forward, StepShape
from outrider.engine.device.tables import BlockTables
from outrider.engine.drafting import Drafting, Proposals
from outrider.engine.observing import KINDS, Observer
from outrider.engine.plan import Outline, Plan
from outrider.engine.sequence import Sequence
from outrider.engine.settings import EngineSettings
from outrider.scheduling import traffic_class
from outrider.speculation import RowSampling

__all__ = ["DeviceRounds", "Drafted"]

Drafted = tuple[Proposals, list[int]]
"""Blocks as the host learns of them after the round, and how deep each decoding request's was verified."""


class DeviceRounds:
    """Owns the device's buffers of one engine, on its thread."""

    def __init__(self, forward: Forward, cache: PagedCache, settings: EngineSettings, most_blocks: int) -> None:
        device = cache.block_slots.device
        self._settings, self._forward, self._cache = settings, forward, cache
        self.tables = BlockTables(settings.max_running_requests, most_blocks, device)
        self._colocated: Colocated | None = None
        self._calibrations = (-1, Calibrations(torch.ones(len(KINDS), 1)))
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

    def follow(self, drafting: Drafting) -> None:
        """Another drafter is attached, or none."""
        gamma = max(1, drafting.block_size)
        if gamma != self.step.gamma:
            self._make_step(gamma)
        self.step.graphs.forget()
        self._calibrations = (-1, self._calibrations[1])
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

    def verify(self, plan: Plan, running: list[Sequence]) -> Choices:
        """Run a plan. Blocks under the rejection rule must come with q."""
        self.tables.follow(running)
        stage = self.step.stage.host
        drafts = [draft for _, draft in plan.decoding]
        for row, draft in enumerate(drafts):
            stage["blocks"][row, : len(draft)] = draft
        count = len(drafts)
        stage["drafted"][:count] = np.arange(count)
        stage["caps"][:count] = [len(draft) for draft in drafts]
        tokens = sum(map(len, drafts))
        shape = self._stage(plan.decoding_sequences, plan.prefill, plan.sampling, tokens)
        width = self._stage_q(plan) if shape.rejects else 0
        self.step.stage.send()
        self.step.run(shape, self.step.told_depths(width), key=f"told{width}", capture=not plan.prefill)
        self.step.wait()
        return self._choices(plan.decoding, plan.prefill)

    def _stage_q(self, plan: Plan) -> int:
        """q of the plan's drafts to the device; its width."""
        if plan.q is None:
            self.step.q_memory(1)[1].zero_()
            return 1
        q = plan.q.q
        width = q.probs.shape[1]
        gamma = self.step.gamma
        tokens, probs = self.step.q_memory(width)
        probs.zero_()
        for row, (sequence, draft) in enumerate(plan.decoding):
            if draft and sequence.key in plan.q.first:
                first = plan.q.first[sequence.key]
                count = min(len(draft), gamma)
                tokens[row, :count] = q.tokens[first : first + count].to(tokens.device, non_blocking=True)
                probs[row, :count] = q.probs[first : first + count].to(probs.device, non_blocking=True)
        return width

    # blocks that stay on the device

    def draft_and_verify(
        self, outline: Outline, drafting: Drafting, running: list[Sequence]
    ) -> tuple[Drafted, Choices] | None:
        """A round whose blocks are drafted, cut and verified here. None, with nothing done, where no context can be
        continued.
        """
        colocated = self._colocated
        assert colocated is not None
        sampling, rows = outline.sampling, outline.rows
        self.tables.follow(running)
        colocated.free(drafting.take_frees())
        drafted = self._stage_draft(colocated, outline)
        if drafted is None:
            return None
        stage = self.step.stage.host
        count = len(outline.decoding)
        stage["drafted"][:count] = -1
        stage["drafted"][rows] = np.arange(len(rows))
        stage["caps"][:count] = 0
        stage["caps"][rows] = [outline.caps[row] for row in rows]
        stage["whole"][:count] = 0
        stage["whole"][[rows[place] for place in outline.observed]] = 1
        stage["weights"][:count] = [s.request.batch_class.weight for s in outline.decoding]
        stage["classes"][:count] = [_class_of(s) for s in outline.decoding]
        whole = sum(outline.caps[rows[place]] for place in outline.observed)
        most = sum(outline.caps[row] for row in rows)
        tokens = min(outline.budget.tokens + whole, most, outline.room_tokens)
        stage["allowed"][0] = tokens
        known = self._calibration(drafting.observer)
        shape = self._stage(outline.decoding, outline.prefill, sampling, tokens)
        self.step.stage.send()
        started = _Clock(self.step.device)
        sampled = colocated.draft(drafted)
        ended = _Clock(self.step.device)
        results, sent = self.step.results.device, self.step.stage.device
        results["blocks"][: len(sampled.tokens)] = sampled.tokens
        results["confidence"][: len(sampled.tokens)] = sampled.confidence
        q: tuple[Tensor, ...] = self.step.q_memory(1) if shape.rejects else ()
        if sampled.q_tokens is not None and sampled.q_probs is not None:
            q = self.step.q_memory(sampled.q_tokens.shape[-1])
            for kept, found in zip(q, (sampled.q_tokens, sampled.q_probs), strict=True):
                kept[: len(found)] = found

        def cut(requests: int) -> Drafts:
            of = sent["drafted"][:requests].clamp(min=0)
            live = survival(results["confidence"][of], sent["classes"][:requests], known)
            chosen = depths(
                live, sent["weights"][:requests], sent["caps"][:requests], sent["whole"][:requests] > 0, sent["allowed"]
            )
            return Drafts(results["blocks"], chosen, *q)

        width = q[0].shape[-1] if q else 0
        self.step.run(shape, cut, key=f"live{width}", capture=not outline.prefill)
        self.step.wait()
        return self._learn(outline, drafting, ended.since(started))

    def _stage_draft(self, colocated: Colocated, outline: Outline) -> DraftShape | None:
        stage, sampling = colocated.stage.host, outline.sampling
        who = [outline.decoding[row] for row in outline.rows]
        appended = 0
        for place, sequence in enumerate(who):
            count = sequence.num_computed - sequence.draft_held
            slot = colocated.seat(sequence.key, sequence.draft_held, count)
            if slot is None:  # never while both sides keep their books
                sequence.draft_held = 0
                return None
            stage["slots"][place], stage["lanes"][place] = slot, self.tables.lane(sequence)
            stage["held"][place], stage["counts"][place] = sequence.draft_held, count
            appended += count
            sequence.draft_held = sequence.num_computed
        count = len(who)
        stage["slots"][count:], stage["counts"][count:], stage["held"][count:] = -1, 0, 0
        stage["anchors"][:count] = [s.tokens[-1] for s in who]
        _stage_sampling(stage, sampling, outline.rows, [s.draws if s.rejects else -1 for s in who])
        for sequence in who:
            sequence.draws += sequence.rejects
        rejects = any(s.rejects for s in who)
        return DraftShape(count, appended, sampling.random, sampling.cuts, rejects)

    def _learn(self, outline: Outline, drafting: Drafting, draft_s: float) -> tuple[Drafted, Choices]:
        """What the host makes of the results, as it would have of a block that came over the link."""
        found = self.step.results.host
        rows, count = outline.rows, len(outline.rows)
        logits = found["confidence"][:count].copy()
        temperature = outline.sampling.temperature.numpy()[rows]
        rejecting = [place for place, row in enumerate(rows) if outline.decoding[row].rejects]
        live = drafting.observer.survival(logits, temperature, rejecting)
        proposed = np.count_nonzero(live, axis=1).tolist()
        blocks = [block[:n] for block, n in zip(found["blocks"][:count].tolist(), proposed, strict=True)]
        drafting.note(count, draft_s)
        proposals = Proposals(blocks, live, draft_s, logits)
        depths = found["depths"][: len(outline.decoding)].tolist()
        drafts: list[list[int]] = [[] for _ in outline.decoding]
        for place, row in enumerate(rows):
            drafts[row] = found["blocks"][place, : depths[row]].tolist()
        decoding = list(zip(outline.decoding, drafts, strict=True))
        return (proposals, depths), self._choices(decoding, outline.prefill)

    def _calibration(self, observer: Observer) -> Calibrations:
        """The observer's calibrations on the device, sent again where they have changed."""
        if self._calibrations[0] != observer.revision:
            self._calibrations = (observer.revision, _tables(observer, self.step.gamma, self.step.device))
            self.step.graphs.forget()
        return self._calibrations[1]

    # both

    def _stage(
        self,
        decoding: list[Sequence],
        prefill: list[tuple[Sequence, int]],
        sampling: RowSampling,
        drafted_tokens: int,
    ) -> StepShape:
        """Everything the step must know but depths; the shape it has with so many draft tokens at most."""
        stage = self.step.stage.host
        first, count = len(decoding), len(decoding) + len(prefill)
        everyone = [*decoding, *(s for s, _ in prefill)]
        stage["lane"][:count] = [self.tables.lane(s) for s in everyone]
        stage["context"][:count] = [s.num_computed for s in everyone]
        stage["fixed"][:first] = 1
        stage["told"][:first] = 1
        stage["offset"][:first] = np.arange(first)
        stage["tokens"][:first] = [s.tokens[-1] for s in decoding]
        end = told = first
        for row, (sequence, length) in enumerate(prefill, start=first):
            start = sequence.num_computed
            stage["tokens"][end : end + length] = sequence.tokens[start : start + length]
            stage["fixed"][row], stage["offset"][row] = length, end
            stage["told"][row] = start + length == len(sequence.tokens)
            told += int(stage["told"][row])
            end += length
        for name, value in (("caps", 0), ("drafted", -1)):
            stage[name][first:count] = value
        for name, value in (("fixed", 0), ("told", 0), ("caps", 0), ("drafted", -1), ("context", 0)):
            stage[name][count:] = value
        stage["lane"][count:] = len(self.tables.entries) - 1
        _stage_sampling(stage, sampling, range(count), [s.draws if s.rejects else -1 for s in everyone])
        longest = max([1 + min(self.step.gamma, drafted_tokens), *(length for _, length in prefill)])
        return StepShape(
            requests=count,
            tokens=end + drafted_tokens,
            rows=told + drafted_tokens,
            longest=longest,
            random=sampling.random,
            cuts=sampling.cuts,
            rejects=any(s.rejects for s in everyone),
        )

    def _choices(self, decoding: list[tuple[Sequence, list[int]]], prefill: list[tuple[Sequence, int]]) -> Choices:
        """Accepted drafts and the token after them, by first row of each sequence, in the order of the commit."""
        found = self.step.results.host
        accepted, last = found["accepted"].tolist(), found["last"].tolist()
        choices = Choices([])
        row = 0
        for place, (sequence, draft) in enumerate(decoding):
            choices.emitted[row] = ([*draft[: accepted[place]], last[place]], accepted[place])
            sequence.draws += sequence.rejects
            row += len(draft) + 1
        for place, (sequence, length) in enumerate(prefill, start=len(decoding)):
            if sequence.num_computed + length == len(sequence.tokens):
                choices.emitted[row] = ([last[place]], 0)
                sequence.draws += sequence.rejects
                row += 1
        return choices


class _Clock:
    """A moment on the device's stream, or now without a device."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._now_s = time.perf_counter()
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(device))

    def since(self, other: _Clock) -> float:
        """Seconds from the other one; only after both have passed."""
        if self._event is not None and other._event is not None:
            return float(other._event.elapsed_time(self._event)) * 1e-3
        return self._now_s - other._now_s


def _stage_sampling(stage: dict[str, np.ndarray], sampling: RowSampling, rows: Iterable[int], draws: list[int]) -> None:
    """How each of `rows` samples, and the numbers of its draws."""
    at = np.fromiter(rows, dtype=np.int64)
    count = len(at)
    for name in ("temperature", "top_p", "seeds", "choices"):
        stage[name][:count] = getattr(sampling, name).numpy()[at]
    stage["top_k"][:count] = 0 if sampling.top_k is None else sampling.top_k.numpy()[at]
    stage["min_p"][:count] = 0.0 if sampling.min_p is None else sampling.min_p.numpy()[at]
    stage["rounds"][:count] = draws
    stage["temperature"][count:], stage["top_p"][count:], stage["rounds"][count:] = 0.0, 1.0, -1


def _class_of(sequence: Sequence) -> int:
    rule = "rejection" if sequence.rejects else "coupled"
    return KINDS.index((rule, traffic_class(sequence.request.sampling.temperature)))


def _tables(observer: Observer, gamma: int, device: torch.device) -> Calibrations:
    """Every class's temperatures and maps as tensors; a class without maps gets the identity."""
    told = observer.calibrations()
    temperatures = np.ones((len(told), gamma), dtype=np.float32)
    for row, (own, _) in enumerate(told):
        if own is not None and len(own) == gamma:
            temperatures[row] = own
    scaled = torch.from_numpy(temperatures).to(device)
    maps = [found for _, found in told if found is not None]
    if not maps:
        return Calibrations(scaled)
    points = max(2, max(len(each.inputs) for found in maps for each in found))
    inputs = np.tile(np.linspace(0.0, 1.0, points, dtype=np.float32), (len(told), gamma, 1))
    outputs = inputs.copy()
    for row, (_, found) in enumerate(told):
        for slot, each in enumerate((found or ())[:gamma]):
            size = len(each.inputs)
            inputs[row, slot, :size], outputs[row, slot, :size] = each.inputs, each.outputs
            inputs[row, slot, size:], outputs[row, slot, size:] = each.inputs[-1] + 1.0, each.outputs[-1]
    return Calibrations(scaled, torch.from_numpy(inputs).to(device), torch.from_numpy(outputs).to(device))
