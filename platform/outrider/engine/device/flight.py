"""A round that was launched and not yet read, and what the host reads when it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from outrider.engine.choosing import Choices
from outrider.engine.drafting import Drafting, Proposals
from outrider.engine.plan import Outline
from outrider.engine.sequence import Sequence

__all__ = ["Clock", "Flight", "Landed", "carried_rows", "land"]


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
    clocks: tuple[Clock, Clock] | None
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


class Clock:
    """A moment on the device's stream, or now without a device."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._now_s = time.perf_counter()
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(device))

    def since(self, other: Clock) -> float:
        """Seconds from the other one; only after both have passed."""
        if self._event is not None and other._event is not None:
            return float(other._event.elapsed_time(self._event)) * 1e-3
        return self._now_s - other._now_s


def carried_rows(sequences: list[Sequence], before: Flight | None) -> list[int]:
    """The row of each sequence in the round before, −1 where its state is known to the host.

    That is so after a round in which it did nothing. Sequences whose prompt ended in that round are not decoding yet,
    as far as the host knows.
    """
    if before is None:
        return [-1] * len(sequences)
    rows = {(s.key, before.alive[row]): row for row, s in enumerate(before.outline.decoding)}
    return [-1 if s.key in before.dead else rows.get((s.key, s.preemptions), -1) for s in sequences]


def land(flight: Flight, drafting: Drafting) -> Landed:
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
        proposals = _blocks(flight, decoding, kept, drafting, draft_s)
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


def _blocks(flight: Flight, decoding: list[int], kept: Outline, drafting: Drafting, draft_s: float) -> Proposals:
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
