"""The engine: continuous batching with speculative rounds. A step is schedule → run → commit.

One thread owns an Engine; `outrider.engine.loop` is that thread. Nothing here knows of Ray or HTTP.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections import deque
from dataclasses import replace

import torch

from outrider.engine.batch import FlatBatch
from outrider.engine.checks import check_request
from outrider.engine.choosing import Choices, Chooser
from outrider.engine.constraints import ConstrainedText, Constraints
from outrider.engine.costing import Costing, Profile
from outrider.engine.device.flight import Flight, land
from outrider.engine.device.rounds import DeviceRounds
from outrider.engine.drafting import Drafting
from outrider.engine.load import RoundMeters, RoundTimes
from outrider.engine.memory import Memory
from outrider.engine.observing import Observer
from outrider.engine.plan import LogitRows, Outline, Plan, flatten
from outrider.engine.planner import Planner
from outrider.engine.roster import Roster
from outrider.engine.sequence import Sequence
from outrider.engine.settings import EngineSettings
from outrider.engine.shaping import NOTHING_ALLOWED, Shaping
from outrider.engine.target import TargetModel, is_power_of_two
from outrider.errors import NothingAllowed, Overloaded
from outrider.link import DraftLink
from outrider.scheduling import CostModel, StepCostCurve, scheduler_named
from outrider.speculation import CoupledRule, RejectionRule
from outrider.types import FinishReason, GenerationRequest, LoadSnapshot, TokenChunk

__all__ = ["Chunks", "Engine", "RoundTimes"]

_log = logging.getLogger(__name__)

Chunks = list[tuple[str, TokenChunk]]

NOTHING = TokenChunk(())
_NOTHING_ALLOWED = "constraint, end tokens and min_tokens leave no token that may come next"


class Engine:
    """Sequences, memory and the step of one target replica."""

    def __init__(
        self,
        target: TargetModel,
        settings: EngineSettings,
        costs: CostModel | StepCostCurve,
        rule: CoupledRule | None = None,
        *,
        rejection: RejectionRule | None = None,
        profile: Profile | None = None,
    ) -> None:
        """`profile` measures costs again, for when the target's step is replaced by a faster one, and a draft's.

        A curve is taken as it is, for every context.
        """
        self.target = target
        self.settings = settings
        self._chooser = Chooser(rule or CoupledRule(), rejection or RejectionRule())
        self._constraints = Constraints(target.directory)
        given = costs if isinstance(costs, CostModel) else CostModel.given(costs)
        self.costing = Costing(target, given, profile)
        self.cache = target.new_cache(settings.kv_blocks, settings.block_size)
        self._roster = Roster(settings, self.cache)
        self._observer = Observer(target.calibration, settings.calibration_share, settings.model)
        self.drafting = Drafting(self.cache, settings.draft_timeout_s, self._observer)
        self._planner = Planner(settings, self.costing, self.drafting)
        self._device = self._device_rounds()
        self._flight: Flight | None = None
        """A round on the device whose results have not been read."""
        self._undelivered: Chunks = []
        self._landed_s = 0.0
        self.epoch = secrets.randbits(63)
        self._changed_s, self._step_kind = time.monotonic(), target.step_kind
        self._keys = itertools.count(secrets.randbits(48) << 14)
        self._meters = RoundMeters(target.projection.block_size if target.projection else 0)

    def _device_rounds(self) -> DeviceRounds | None:
        """Rounds on the target's device, where they are wanted and its step is made for them."""
        settings, target = self.settings, self.target
        wanted = settings.device_rounds
        if wanted is None:
            wanted = target.device.type == "cuda"
        if not wanted or target.paged is None or not is_power_of_two(settings.block_size):
            return None
        most_blocks = -(-(self.context_tokens + 1) // settings.block_size)
        return DeviceRounds(target.paged, self.cache, settings, most_blocks)

    @property
    def curve(self) -> StepCostCurve:
        """What a step costs at the present context."""
        return self.costing.curve

    @property
    def running(self) -> list[Sequence]:
        """Sequences that hold memory."""
        return self._roster.running

    @property
    def queue(self) -> deque[Sequence]:
        """Sequences that wait for it, next one first."""
        return self._roster.queue

    @property
    def memory(self) -> Memory:
        """The KV blocks and who holds them."""
        return self._roster.memory

    @property
    def admission_wait_s(self) -> float:
        """How long the queue may still wait for company before a step is due; 0 when one is due now."""
        return self._roster.admission_wait_s

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.running or self.queue or self._flight or self._undelivered)

    @property
    def context_tokens(self) -> int:
        """Largest prompt plus output: the target's context, or all memory if that is less."""
        return min(self.target.context_tokens, self.settings.kv_blocks * self.settings.block_size)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Raises what `check_request` and `prepare` do, and Overloaded when the queue is full."""
        check_request(request, self.target.vocab_size, self.context_tokens)
        if len(self.queue) >= self.settings.max_queued_requests:
            raise Overloaded(f"{len(self.queue)} requests are queued for {self.settings.model}", retry_after_s=1.0)
        sequence = Sequence(request, next(self._keys), time.monotonic(), list(request.prompt_token_ids))
        own = () if request.sampling.ignore_eos else self.target.eos_token_ids
        sequence.ends = frozenset((*own, *request.sampling.stop_token_ids))
        sequence.shaping = self._shaping(request, sequence.ends)
        self.queue.append(sequence)

    def prepare(self, request: GenerationRequest) -> None:
        """Compile what a request's output must match, so that `submit` finds it done; any thread may call this.

        Raises InvalidRequest where the constraint cannot be kept, MissingExtra without the library that keeps it.
        """
        if request.sampling.constraint is not None:
            self._constraints.compile(request.sampling.constraint)

    def _shaping(self, request: GenerationRequest, ends: frozenset[int]) -> Shaping | None:
        constraint = request.sampling.constraint
        text = None
        if constraint is not None:
            text = ConstrainedText(self._constraints.compile(constraint).matcher(), ends)
        return Shaping.of(request.sampling, request.prompt_token_ids, ends, text)

    def cancel(self, request_id: str) -> Chunks:
        """End a request now, queued or running; unknown ones are ignored."""
        for sequence in self._roster.everyone:
            if sequence.request.request_id == request_id:
                sequence.finish = FinishReason.CANCELLED
                chunks = [self._retire(sequence)]
                self._say_farewells()
                return chunks
        return []

    def fail(self, error: str) -> Chunks:
        """End every running request with an error: a step that raised left their state unknown."""
        failed, self._undelivered, self._flight = self._undelivered, [], None
        for sequence in list(self.running):
            sequence.finish = FinishReason.ERROR
            request_id, chunk = self._retire(sequence)
            failed.append((request_id, replace(chunk, error=error)))
        self.memory.pool.forget()
        self._say_farewells()
        return failed

    def attach_drafter(self, link: DraftLink) -> None:
        """Draft through `link` from the next round on; sequences are refilled from the feature plane."""
        self._undelivered += self._land()
        self.drafting.attach(link, self._roster.everyone)
        self._changed_s = time.monotonic()
        self._meters.follow(link.welcome.block_size)
        self._planner.follow(self._roster.everyone)
        if self._device is not None:
            self._device.follow(self.drafting)
        self.costing.meet(link.welcome.name)
        if self.idle:
            self.renew_costs()

    def step(self) -> Chunks:
        """One round for everything that is running; returns what each request gained.

        Where rounds stay on a device one may be in flight: what is returned is then of the round before.
        """
        started = time.perf_counter()
        self._roster.admit()
        block_size = self.drafting.block_size
        self._roster.make_room(block_size, 0 if self._device is None else 2 * (block_size + 1))
        outline = self._planner.outline(self.running)
        delivered, self._undelivered = self._undelivered, []
        if self._device is not None and not outline.empty and self._stays(outline):
            flight = self._device.launch(outline, self.drafting, self.running, self._flight)
            if flight is not None:
                delivered += self._land(flight)
                self._device.settle(flight)
                self._flight = flight
                return delivered
        if self._flight is not None:  # what comes next needs its results first
            return delivered + self._land()
        return delivered if outline.empty else delivered + self._round(outline, started)

    def _stays(self, outline: Outline) -> bool:
        """Whether a round can be left to the device, drafts and all."""
        device = self._device
        if device is None or not device.takes((*outline.decoding, *(sequence for sequence, _ in outline.prefill))):
            return False
        return not outline.rows or (device.colocated and self._planner.leave_cutting(outline))

    def _round(self, outline: Outline, started: float) -> Chunks:
        """A round that the host sees all of."""
        plan = self._planner.plan(outline)
        scheduled = time.perf_counter()
        device = self._device
        if device is not None and device.takes(sequence for sequence, _ in (*plan.decoding, *plan.prefill)):
            chosen = device.verify(plan, self.running)
        else:
            batch, rows = flatten(plan, self.target.device)
            chosen = self._run(plan, batch, rows)
        ran = time.perf_counter()
        for sequence, length in plan.prefill:
            sequence.num_computed += length
        ended = {s.key for s, _ in plan.prefill if s.num_computed == len(s.tokens)}
        chunks = self._commit(plan, chosen, ended)
        self._account(plan, started, scheduled, ran)
        return chunks

    def _land(self, following: Flight | None = None) -> Chunks:
        """Read and commit the round in flight, if there is one; `following` has been launched since."""
        flight, self._flight = self._flight, None
        if flight is None or self._device is None:
            return []
        outline, proposals, depths, chosen, stalled = land(flight, self.drafting)
        if following is not None:
            following.dead = stalled
        ran = time.perf_counter()
        drafts: list[list[int]] = [[] for _ in outline.decoding]
        expected = [0.0] * len(drafts)
        draft_s = 0.0
        if proposals is not None:
            draft_s = proposals.wait_s
            drafts, expected = self._planner.cut_elsewhere(outline, proposals, depths)
        decoding = list(zip(outline.decoding, drafts, strict=True))
        plan = Plan(decoding, outline.prefill, outline.sampling, draft_s, expected=expected)
        chunks = self._commit(plan, chosen, flight.ended)
        began = max(flight.launched_s, self._landed_s)
        if plan.empty:
            return chunks
        self._account(plan, began, began + draft_s, ran)
        self._landed_s = time.perf_counter()
        return chunks

    def reset_memory(self) -> None:
        """Count every block as free; only while nothing runs."""
        self._roster.reset_memory()

    def renew_costs(self) -> bool:
        """Measure costs that are missing or no longer hold; only while nothing runs."""
        if not self.costing.renew(self.drafting, self.cache):
            return False
        self._planner.forget()
        self._changed_s = time.monotonic()
        _log.info("the costs of %s's %s step were measured", self.settings.model, self.target.step_kind)
        return True

    def use_scheduler(self, name: str) -> None:
        """Decide by another scheduler from the next round on, with nothing learnt; raises ConfigurationError."""
        self._planner.use_scheduler(scheduler_named(name))

    def check_integrity(self) -> None:
        """Raise OutOfBlocks unless memory is in balance."""
        self.memory.check_integrity(self.running)

    # run

    @torch.inference_mode()
    def _run(self, plan: Plan, batch: FlatBatch, rows: LogitRows) -> Choices:
        """The target's own choice wherever one is due."""
        logits = self.target.forward(batch, self.cache)
        if logits is None or batch.logit_rows is None:
            return Choices([])
        chosen_at = batch.positions.index_select(0, batch.logit_rows) + 1
        return self._chooser.choose(plan, rows, chosen_at.cpu(), logits.cpu())

    # commit

    def _commit(self, plan: Plan, chosen: Choices, ended: set[int]) -> Chunks:
        """Give everyone what the round chose for them. ended: keys of those whose prompt ends in it."""
        chunks: Chunks = []
        now = time.monotonic()
        row = 0
        for sequence, draft in plan.decoding:
            chunks.append(self._extend(sequence, chosen, row, draft, len(draft)))
            row += len(draft) + 1
        for sequence, _ in plan.prefill:
            if sequence.key not in ended:
                self.memory.publish(sequence)
                continue
            resumed = sequence.first_token_s is not None
            if not resumed:
                sequence.first_token_s = now
            chunks.append(self._extend(sequence, chosen, row, [], 0 if resumed else None))
            row += 1
        self._say_farewells()
        return chunks

    def _say_farewells(self) -> None:
        """Let the drafter free ended sequences now when no round is going to tell it."""
        if not any(sequence.decoding for sequence in self.running):
            self.drafting.flush()

    def _extend(
        self, sequence: Sequence, chosen: Choices, first_row: int, draft: list[int], admitted: int | None
    ) -> tuple[str, TokenChunk]:
        """Commit a round's tokens to a sequence, up to what ends it. No depth: no round.

        After a cut `num_computed` is one short of the tokens: rejected and cut positions are simply run again.
        """
        emitted, accepted = self._chooser.emit(chosen, first_row, draft)
        emitted, error = self._end(sequence, emitted)
        if admitted is not None:
            counted = min(accepted, len(emitted))
            tried = admitted if sequence.finish is None else min(admitted, len(emitted))
            sequence.rounds.append((tried, counted))
            self._meters.acceptance.add(tried, counted)
        first = sequence.emitted == 0
        told = sequence.prompt_logprobs if first and not sequence.reuses_prefix else ()
        sequence.tokens += emitted
        sequence.num_computed = len(sequence.tokens) - 1
        if admitted is not None:
            self._observer.record(sequence, min(accepted, len(emitted)))
        self.memory.publish(sequence)
        if sequence.finish is None and sequence.remaining <= 0:
            sequence.finish = FinishReason.LENGTH
        logprobs = chosen.told(first_row, len(emitted))
        cached = sequence.cached_tokens if first else 0
        chunk = TokenChunk(
            tuple(emitted), error=error, logprobs=logprobs, prompt_logprobs=tuple(told), cached_tokens=cached
        )
        if sequence.finish is None:
            return sequence.request.request_id, chunk
        return self._retire(sequence, chunk)

    def _end(self, sequence: Sequence, emitted: list[int]) -> tuple[list[int], str | None]:
        """What of a round's tokens is left when something in them ends the sequence, and the error if one does."""
        error = None
        if emitted[-1] < 0:
            failed = emitted[-1] == NOTHING_ALLOWED
            sequence.finish = FinishReason.ERROR if failed else FinishReason.STOP
            error = f"{NothingAllowed.code}: {_NOTHING_ALLOWED}" if failed else None
            emitted = emitted[:-1]
        last = next((place for place, token in enumerate(emitted, start=1) if token in sequence.ends), None)
        if last is None and sequence.shaping is not None:
            last = sequence.shaping.add(emitted)
        if last is not None:
            sequence.finish = FinishReason.STOP
            return emitted[:last], None
        return emitted, error

    def _retire(self, sequence: Sequence, gained: TokenChunk = NOTHING) -> tuple[str, TokenChunk]:
        """Free everything a finished sequence holds and make its last chunk."""
        self._roster.remove(sequence)
        self._observer.end(sequence)
        self.drafting.forget(sequence)
        chunk = replace(gained, finish=sequence.finish, summary=sequence.summary(time.monotonic()))
        return sequence.request.request_id, chunk

    # load

    def _account(self, plan: Plan, started: float, scheduled: float, ran: float) -> None:
        now = time.perf_counter()
        tokens = sum(1 + len(draft) for _, draft in plan.decoding) + sum(length for _, length in plan.prefill)
        schedule_s = scheduled - started - plan.draft_s
        times = RoundTimes(plan.draft_s, schedule_s, ran - scheduled, now - ran, tokens, len(plan.decoding))
        times = self.costing.learn(plan, self.drafting, times, started, now)
        self._planner.learn(plan, tokens, times.whole_s)
        emitted = sum(sequence.rounds[-1][1] + 1 for sequence, _ in plan.decoding)
        self._meters.add(times, emitted)

    @property
    def last_times(self) -> RoundTimes | None:
        """Where the last step's time went."""
        return self._meters.last

    def snapshot(self) -> LoadSnapshot:
        """The replica's load now."""
        ready, meters, pool, curve = self.drafting.ready, self._meters, self.memory.pool, self.curve
        return LoadSnapshot(
            model=self.settings.model,
            replica=self.settings.replica,
            epoch=self.epoch,
            time_s=time.time(),
            queued_requests=len(self.queue),
            queued_tokens=self._roster.waiting_tokens,
            running_requests=len(self.running),
            kv_blocks_used=pool.used,
            kv_blocks_cached=pool.cached,
            kv_blocks_total=pool.total,
            price_s=meters.price(curve),
            curve_version=curve.version,
            step_curve=curve.points(),
            draft_s=meters.draft_s.value if ready else 0.0,
            round_s=meters.round_s.value,
            pace_s=meters.pace.value,
            pace_requests=meters.pace.requests,
            hopeless_requests=sum(sequence.hopeless for sequence in self.running),
            prediction_bias=self.costing.bias,
            prediction_error=self.costing.error,
            acceptance_tokens=meters.acceptance.expected_tokens() if ready else (1.0,),
            drafter_ready=ready,
            context_tokens=self.context_tokens,
            max_running_requests=self.settings.max_running_requests,
            calibration=self._observer.reports if ready else (),
            warm_s=self._warm_s(),
        )

    def _warm_s(self) -> float:
        """How long it has run with this step, these costs and this drafter."""
        now_s, kind = time.monotonic(), self.target.step_kind
        if kind != self._step_kind:  # a compiled step was swapped in
            self._step_kind, self._changed_s = kind, now_s
        return now_s - self._changed_s
