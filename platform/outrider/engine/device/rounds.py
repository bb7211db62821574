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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.engine.cache import PagedCache
from outrider.engine.choosing import Choices
from outrider.engine.device.colocated import Colocated, DraftShape
from outrider.engine.device.cutting import Calibrations, depths, survival
from outrider.engine.device.layout import Drafts
from outrider.engine.device.step import Depths, DeviceStep, Forward, StepShape
from outrider.engine.device.tables import BlockTables
from outrider.engine.drafting import Drafting, Proposals
from outrider.engine.observing import KINDS, Observer
from outrider.engine.plan import Outline, Plan
from outrider.engine.sequence import Sequence
from outrider.engine.settings import EngineSettings
from outrider.scheduling import traffic_class
from outrider.speculation import RowSampling

__all__ = ["DeviceRounds", "Flight", "Landed"]


@dataclass(slots=True)
class Flight:
    """A round that was launched. alive: how often each sequence had been preempted then; ended: keys of those whose
    prompt ends in it; pending: rows that the drafter is given in it, (sequence, rows held before), until the host
    knows their number; dead: keys of those that do nothing in it, as the round before has shown since.
    """

    outline: Outline
    drafted: list[int]
    alive: list[int]
    results: dict[str, NDArray[Any]]
    done: Any
    clocks: tuple[_Clock, _Clock] | None
    launched_s: float
    ended: set[int] = field(default_factory=set)
    pending: list[tuple[Sequence, int]] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)

    @property
    def members(self) -> list[Sequence]:
        """All that take part, in the order of their rows."""
        return [*self.outline.decoding, *(sequence for sequence, _ in self.outline.prefill)]


class Landed(NamedTuple):
    """What came of a round for those who still run: who they are, the blocks as the host learns of them (None where
    nothing was drafted) and how deep each decoding request's was verified, what each emits, by first row, and the keys
    of those who had no room, and so none in the round after it.
    """

    outline: Outline
    proposals: Proposals | None
    depths: list[int]
    choices: Choices
    stalled: set[int]


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
        _count_draws([*decoding, *(sequence for sequence, _ in plan.prefill)])
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
            started = _Clock(self.step.device)
            key, cut = self._draft(drafted, drafting, shape)
            flight.clocks = (started, _Clock(self.step.device))
            self.step.run(shape, cut, key=key, capture=not outline.prefill)
        flight.results, flight.done = self.step.results.host, self.step.fetch()
        members = flight.members
        flight.alive = [sequence.preemptions for sequence in members]
        _count_draws(members)
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
        known = self._calibration(drafting.observer)
        results, sent = self.step.results.device, self.step.stage.device
        sampled = self._colocated.draft(drafted, results)
        results["blocks"][: len(sampled.tokens)] = sampled.tokens
        results["confidence"][: len(sampled.tokens)] = sampled.confidence
        q: tuple[Tensor, ...] = self.step.q_memory(1) if shape.rejects else ()
        if sampled.q_tokens is not None and sampled.q_probs is not None and shape.rejects:
            q = self.step.q_memory(sampled.q_tokens.shape[-1])
            for kept, found in zip(q, (sampled.q_tokens, sampled.q_probs), strict=True):
                kept[: len(found)] = found

        def cut(caps: Tensor) -> Drafts:
            requests = len(caps)
            of = sent["drafted"][:requests].clamp(min=0)
            live = survival(results["confidence"][of], sent["classes"][:requests], known)
            whole = sent["whole"][:requests] > 0
            return Drafts(results["blocks"], depths(live, sent["weights"][:requests], caps, whole, sent["allowed"]), *q)

        return f"live{q[0].shape[-1] if q else 0}", cut

    def _stage_draft(self, drafting: Drafting, outline: Outline, before: Flight | None) -> DraftShape | None:
        colocated, sampling = self._colocated, outline.sampling
        assert colocated is not None
        colocated.stage.flip()
        colocated.free(drafting.take_frees())
        stage = colocated.stage.host
        who = [outline.decoding[row] for row in outline.rows]
        carried = _carried(who, before)
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
        _stage_sampling(stage, sampling, outline.rows, [s.draws if s.rejects else -1 for s in who])
        _count_draws(who)
        return DraftShape(count, appended, sampling.random, sampling.cuts, any(s.rejects for s in who))

    def _stage_cut(self, outline: Outline) -> int:
        """What cutting the blocks must know; how many draft tokens are verified at most."""
        stage, rows, count = self.step.stage.host, outline.rows, len(outline.decoding)
        stage["drafted"][rows] = np.arange(len(rows))
        stage["caps"][rows] = [outline.caps[row] for row in rows]
        stage["whole"][:count] = 0
        stage["whole"][[rows[place] for place in outline.observed]] = 1
        stage["weights"][:count] = [s.request.batch_class.weight for s in outline.decoding]
        stage["classes"][:count] = [_class_of(s) for s in outline.decoding]
        whole = sum(outline.caps[rows[place]] for place in outline.observed)
        most = sum(outline.caps[row] for row in rows)
        tokens = min(outline.budget.tokens + whole, most, outline.room_tokens)
        stage["allowed"][0] = tokens
        return tokens

    def land(self, flight: Flight, drafting: Drafting) -> Landed:
        """Wait for a round and read what came of it, but for those who ended or lost their memory since it was
        launched, and those who had no room in it.
        """
        if flight.done is not None:
            flight.done.synchronize()
        found, outline = flight.results, flight.outline
        here = [
            row
            for row, sequence in enumerate(flight.members)
            if sequence.finish is None and sequence.blocks and sequence.preemptions == flight.alive[row]
        ]
        count = len(outline.decoding)
        decoding = [row for row in here if row < count and found["last"][row] >= 0]
        prefill = [row for row in here if row >= count]
        kept = Outline(
            [outline.decoding[row] for row in decoding], [outline.prefill[row - count] for row in prefill],
            outline.sampling, caps=[outline.caps[row] for row in decoding] if outline.caps else [],
        )  # fmt: skip
        depths = [int(found["depths"][row]) for row in decoding]
        proposals = None
        if flight.drafted and flight.clocks is not None:
            draft_s = flight.clocks[1].since(flight.clocks[0])
            drafting.note(len(flight.drafted), draft_s)
            proposals = self._blocks(flight, decoding, kept, drafting, draft_s)
        blocks = dict(zip(flight.drafted, found["blocks"][: len(flight.drafted)].tolist(), strict=True))
        choices, place = Choices([]), 0
        for row, depth in zip(decoding, depths, strict=True):
            accepted = int(found["accepted"][row])
            draft = blocks[row][:accepted] if accepted else []
            choices.emitted[place] = ([*draft, int(found["last"][row])], accepted)
            place += depth + 1
        for row in prefill:
            if outline.prefill[row - count][0].key in flight.ended:
                choices.emitted[place] = ([int(found["last"][row])], 0)
                place += 1
        stalled = {outline.decoding[row].key for row in here if row < count and row not in decoding}
        return Landed(kept, proposals, depths, choices, stalled - flight.dead)

    def settle(self, flight: Flight) -> None:
        """Take into the books what a flight gave to the drafter, once all that it was carried on from is committed."""
        assert self._colocated is not None or not flight.pending
        for sequence, held in flight.pending:
            if sequence.finish is None and sequence.blocks and self._colocated is not None:
                self._colocated.count(sequence.key, held, sequence.num_computed - held)
                sequence.draft_held = sequence.num_computed
        flight.pending = []

    def _blocks(
        self, flight: Flight, decoding: list[int], kept: Outline, drafting: Drafting, draft_s: float
    ) -> Proposals:
        """What the host makes of the blocks of those who still run, as it would have of some that came over a link."""
        found = flight.results
        place_of = {row: place for place, row in enumerate(flight.drafted)}
        rows = [place for place, row in enumerate(decoding) if row in place_of]
        places = [place_of[decoding[row]] for row in rows]
        observed = {place_of[flight.drafted[place]] for place in flight.outline.observed}
        kept.rows = rows
        kept.observed = {index for index, place in enumerate(places) if place in observed}
        logits = found["confidence"][places].copy()
        temperature = flight.outline.sampling.temperature.numpy()[[decoding[row] for row in rows]]
        rejecting = [index for index, row in enumerate(rows) if kept.decoding[row].rejects]
        live = drafting.observer.survival(logits, temperature, rejecting)
        proposed = np.count_nonzero(live, axis=1).tolist()
        blocks = [found["blocks"][place, :n].tolist() for place, n in zip(places, proposed, strict=True)]
        return Proposals(blocks, live, draft_s, logits)

    def _calibration(self, observer: Observer) -> Calibrations:
        """The observer's calibrations on the device, sent again where they have changed, to where graphs read them."""
        revision, known = self._calibrations
        if revision != observer.revision:
            found = _tables(observer, self.step.gamma, self.step.device)
            if not known.take(found):
                known = found
                self.step.graphs.forget()
            self._calibrations = (observer.revision, known)
        return known

    # both

    def _begin(self, running: list[Sequence]) -> None:
        """Turn to the buffers of the next round, and let the block tables follow."""
        self.step.stage.flip()
        self.step.results.flip()
        self.tables.follow(running)

    def _stage(self, outline: Outline, drafted_tokens: int, before: Flight | None) -> StepShape:
        """Everything the step must know but blocks and caps; its shape with so many draft tokens at most."""
        stage, decoding, sampling = self.step.stage.host, outline.decoding, outline.sampling
        everyone = [*decoding, *(s for s, _ in outline.prefill)]
        first, count = len(decoding), len(everyone)
        stage["lane"][:count] = [self.tables.lane(s) for s in everyone]
        stage["context"][:count] = [s.num_computed for s in everyone]
        stage["limit"][:count] = [s.most_tokens for s in everyone]
        stage["room"][:count] = [len(s.blocks) * self._settings.block_size for s in everyone]
        stage["carried"][:count] = _carried(everyone, before)
        stage["fixed"][:first] = 1
        stage["told"][:first] = 1
        stage["offset"][:first] = np.arange(first)
        stage["tokens"][:first] = [s.tokens[-1] for s in decoding]
        end = told = first
        for row, (sequence, length) in enumerate(outline.prefill, start=first):
            start = sequence.num_computed
            stage["tokens"][end : end + length] = sequence.tokens[start : start + length]
            stage["fixed"][row], stage["offset"][row] = length, end
            stage["told"][row] = start + length == len(sequence.tokens)
            told += int(stage["told"][row])
            end += length
        for name, value in (("caps", 0), ("drafted", -1), ("carried", -1)):
            stage[name][first:count] = value
        for name, value in (("fixed", 0), ("told", 0), ("caps", 0), ("drafted", -1), ("context", 0), ("carried", -1)):
            stage[name][count:] = value
        stage["lane"][count:] = len(self.tables.entries) - 1
        _stage_sampling(stage, sampling, range(count), [s.draws if s.rejects else -1 for s in everyone])
        longest = max([1 + min(self.step.gamma, drafted_tokens), *(length for _, length in outline.prefill)])
        return StepShape(
            requests=count,
            tokens=end + drafted_tokens,
            rows=told + drafted_tokens,
            longest=longest,
            random=sampling.random,
            cuts=sampling.cuts,
            rejects=any(s.rejects for s in everyone),
        )


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


def _carried(sequences: list[Sequence], before: Flight | None) -> list[int]:
    """The row of each sequence in the round before, −1 where its state is known to the host.

    That is so after a round in which it did nothing. Sequences whose prompt ended in that round are not decoding yet,
    as far as the host knows.
    """
    if before is None:
        return [-1] * len(sequences)
    rows = {(s.key, before.alive[row]): row for row, s in enumerate(before.outline.decoding)}
    return [-1 if s.key in before.dead else rows.get((s.key, s.preemptions), -1) for s in sequences]


def _count_draws(sequences: Iterable[Sequence]) -> None:
    """Each drew once under the rejection rule, whether or not anything comes of it."""
    for sequence in sequences:
        sequence.draws += sequence.rejects


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
