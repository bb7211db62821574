"""Whether a drafter's confidences mean what they say, learnt from rounds that are verified whole.

Trimming hides what the slots beyond a cut would have come to, so a small slice of rounds is verified to the end of the
block, chosen before anything is drafted. What comes of them judges the calibration, refits it, and withdraws trust
from one that is broken: depths then follow measured acceptance until predictions hold again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.engine.sequence import Sequence
from outrider.scheduling import Calibration
from outrider.scheduling.calibration import SurvivalMap, prefix_survival, traffic_class
from outrider.scheduling.recalibration import (
    ADOPTED_ABOVE,
    JUDGED,
    Observations,
    disagreement,
    refit,
    report,
    survival_floor,
)
from outrider.types import CalibrationReport
from outrider_kernels.counter_noise import splitmix64

__all__ = ["KINDS", "Observer"]

_log = logging.getLogger(__name__)

KINDS = tuple((rule, kind) for rule in ("coupled", "rejection") for kind in ("greedy", "sampled"))
"""(rule, class of traffic): who has a calibration of its own."""

_KEPT = 1024
"""Rounds remembered of each (rule, class)."""
_JUDGED_EVERY = 32
_REFIT_EVERY = 64
_FEWEST_JUDGED = 64
_MOST_JUDGED = JUDGED
"""Windows: the short one soon sees what is grossly wrong; more than the long one would make trifles significant."""
_FEWEST_REFIT = 160
_LEAST_FLOOR = 1e-6
_BROKEN_ABOVE = 5.0
_HEALED_BELOW = 3.5
"""Of `disagreement`; noise alone takes it beyond 3.5 in 2 of a thousand judgements and beyond 5 in 4 of a million."""


@dataclass(slots=True)
class _Pending:
    """A round whose answer may still end within its block. start: tokens emitted before it; verified: slots that the
    round had room for; run: accepted, None until it is committed.
    """

    key: tuple[str, str]
    logits: NDArray[np.float32]
    start: int
    verified: int
    run: int | None = None


class _Traffic:
    """The newest rounds of one (rule, class), and what is thought of its calibration.

    since: rounds predicted by an earlier calibration; began: rounds from before a break, which are not looked at again.
    """

    def __init__(self, block_size: int) -> None:
        self._confidence = np.zeros((_KEPT, block_size), dtype=np.float32)
        self._survival = np.zeros((_KEPT, block_size))
        self._run, self._left, self._owner = (np.zeros(_KEPT, dtype=np.int64) for _ in range(3))
        self.count = self.since = self.began = self.tried = self.breaks = self.refits = 0
        self.trusted = True
        self.floor = np.zeros(block_size)

    def add(self, owner: int, pending: _Pending, survival: NDArray[np.float64], left: int) -> None:
        place = self.count % _KEPT
        self._confidence[place], self._survival[place] = pending.logits, survival
        self._run[place], self._left[place], self._owner[place] = pending.run or 0, left, owner
        self.count += 1

    def newest(self, count: int) -> tuple[Observations, NDArray[np.float64]]:
        """(rounds, survival as it was predicted) of the last `count`."""
        places = np.arange(self.count - min(count, self.count - self.began, _KEPT), self.count) % _KEPT
        seen = Observations(self._confidence[places], self._run[places], self._left[places], self._owner[places])
        return seen, self._survival[places]


class Observer:
    """Chooses the slice, keeps what came of it, and turns confidences into prefix survival. One thread owns it.

    Per round it costs a comparison per sequence, and a refit at most at every 64th observation of a class: one in
    thousands of rounds.
    """

    def __init__(self, shipped: Calibration | None, share: float, model: str) -> None:
        self._shipped = shipped
        self._share = share
        self._model = model
        self._followed: tuple[str, int] | None = None
        self._next: dict[int, tuple[int, int]] = {}
        self.revision = 0
        """Changes with whatever `calibrations` tells."""
        self.follow("", shipped.block_size if shipped else 0)

    def follow(self, drafter: str, block_size: int) -> None:
        """Observe a drafter from now on; what was learnt of another one, or of its shipped calibration, is dropped."""
        if self._followed == (drafter, block_size):
            return
        self._followed = (drafter, block_size)
        self._calibration = Calibration(block_size, {})
        if self._shipped is not None and self._shipped.block_size == block_size:
            self._calibration = self._shipped
        self.revision += 1
        self._traffic: dict[tuple[str, str], _Traffic] = {}
        self._pending: dict[int, list[_Pending]] = {}
        self.reports: tuple[CalibrationReport, ...] = ()

    def trusted(self, rule: str, traffic: str) -> bool:
        """Whether depths of this (rule, class) may follow confidences."""
        known = self._traffic.get((rule, traffic))
        return known is None or known.trusted

    def calibrations(self) -> list[tuple[NDArray[np.float64] | None, Seq[SurvivalMap] | None]]:
        """Temperatures [γ] and maps by which confidences become survival, in the order of `KINDS`; None for neither.

        Where trust is lost the maps are level at what was measured.
        """
        told: list[tuple[NDArray[np.float64] | None, Seq[SurvivalMap] | None]] = []
        for key in KINDS:
            known = self._traffic.get(key)
            if known is None or known.trusted:
                told.append(self._present(key))
            else:
                level = np.zeros(1)
                told.append((None, tuple(SurvivalMap(level, level + share) for share in known.floor)))
        return told

    def slice(self, sequences: Seq[Sequence]) -> list[int]:
        """Rows of those that verify this round whole, by a hash of sequence and round: nothing drafted has a say.

        That keeps the choice admissible under rejection, and labels free of selection.
        """
        if self._share == 0:
            return []
        return [row for row, each in enumerate(sequences) if self._due(each.key, len(each.rounds)) == len(each.rounds)]

    def _due(self, key: int, round_: int) -> int:
        """The first round of the slice that is not before `round_`. Gaps are geometric, so each round is as likely."""
        due, drawn = self._next.get(key, (-1, 0))
        while due < round_:
            # gap by gap instead of round by round: hashing every round took 17 µs of it
            chance = (int(_hashed(_hashed(np.array([key])) + np.uint64(drawn))[0]) >> 11) * 2.0**-53
            gap = int(math.log1p(-chance) / math.log1p(-self._share)) if self._share < 1 else 0
            due, drawn = due + 1 + gap, drawn + 1
            self._next[key] = due, drawn
        return due

    def survival(
        self, logits: NDArray[np.float32], temperature: NDArray[np.float32], rejecting: Seq[int] = ()
    ) -> NDArray[np.float64]:
        """Prefix survival float64 [R, γ]: calibrated, or where trust is lost what was measured, at its lower bound.

        rejecting: rows under the rejection rule.
        """
        survival = self._calibration.survival(logits, temperature)
        if rejecting:
            rows = np.array(rejecting)
            survival[rows] = self._calibration.survival(logits[rows], temperature[rows], "rejection")
        for (rule, kind), traffic in self._traffic.items():
            if not traffic.trusted:
                rejects = np.isin(np.arange(len(logits)), rejecting)
                found = (rejects == (rule == "rejection")) & ((temperature > 0) == (kind == traffic_class(1.0)))
                survival[found] = np.where(survival[found] > 0, traffic.floor, 0.0)
        return survival

    def watch(self, sequence: Sequence, logits: NDArray[np.float32], verified: int) -> None:
        """A round of the slice is going to be run; `verified` slots of its block [γ] will have an outcome."""
        rule = "rejection" if sequence.rejects else "coupled"
        key = rule, traffic_class(sequence.request.sampling.temperature)
        self._pending.setdefault(sequence.key, []).append(_Pending(key, logits.copy(), sequence.emitted, verified))

    def record(self, sequence: Sequence, accepted: int) -> None:
        """A round was committed, its tokens are with the sequence; called for every round, drafted or not."""
        if (waiting := self._pending.get(sequence.key)) is None:
            return
        if waiting[-1].run is None:
            waiting[-1].run = accepted
        known = sequence.emitted - self._calibration.block_size
        for pending in [each for each in waiting if each.start <= known]:
            waiting.remove(pending)
            self._keep(sequence, pending)
        if not waiting:
            del self._pending[sequence.key]

    def end(self, sequence: Sequence) -> None:
        """The sequence has ended: slots beyond its last token never had an outcome, whatever was drafted for them."""
        self._next.pop(sequence.key, None)
        for pending in self._pending.pop(sequence.key, ()):
            self._keep(sequence, pending)

    def _keep(self, sequence: Sequence, pending: _Pending) -> None:
        if pending.run is None:  # its step failed
            return
        if pending.key not in self._traffic:
            self._traffic[pending.key] = _Traffic(len(pending.logits))
        traffic = self._traffic[pending.key]
        left = min(pending.verified, sequence.emitted - pending.start)
        survival = prefix_survival(pending.logits[None], *self._present(pending.key))[0]
        traffic.add(sequence.key, pending, survival, left)
        if traffic.count % _JUDGED_EVERY == 0:
            self._judge(pending.key, traffic)

    def _present(self, key: tuple[str, str]) -> tuple[NDArray[np.float64] | None, Seq[SurvivalMap] | None]:
        return self._calibration.temperatures.get(key), self._calibration.maps.get(key)

    def _judge(self, key: tuple[str, str], traffic: _Traffic) -> None:
        """Renew trust, then the calibration when that is due, then what is told of both."""
        if (known := traffic.count - traffic.since) >= _FEWEST_JUDGED:
            windows = (traffic.newest(min(each, known)) for each in (_FEWEST_JUDGED, _MOST_JUDGED))
            self._trust(key, traffic, max(disagreement(survival, seen) for seen, survival in windows))
        known = min(traffic.count - traffic.began, _KEPT)
        if known >= _FEWEST_REFIT and traffic.count - traffic.tried >= max(_REFIT_EVERY, known // 8):
            self._refit(key, traffic)
        seen, survival = traffic.newest(_KEPT)
        # a slot at 0 would count as not proposed, and never be observed again
        self.revision += 1
        traffic.floor = np.maximum(survival_floor(traffic.newest(_MOST_JUDGED)[0]), _LEAST_FLOOR)
        told = report(key, survival, seen, trusted=traffic.trusted, breaks=traffic.breaks, refits=traffic.refits)
        others = (each for each in self.reports if (each.rule, each.traffic) != key)
        self.reports = (*others, told)

    def _trust(self, key: tuple[str, str], traffic: _Traffic, apart: float) -> None:
        if traffic.trusted and apart > _BROKEN_ABOVE:
            traffic.trusted = False
            traffic.breaks += 1
            traffic.began = traffic.count - _FEWEST_JUDGED
            _log.warning(
                "%s: confidences for %s traffic disagree with what is accepted (%.1f, %s rule): depths follow measured "
                "acceptance until they hold again",
                *(self._model, key[1], apart, key[0]),
            )
        elif not traffic.trusted and apart < _HEALED_BELOW:
            traffic.trusted = True
            _log.info("%s: the drafter's confidences hold again for %s traffic", self._model, key[1])

    def _refit(self, key: tuple[str, str], traffic: _Traffic) -> None:
        traffic.tried = traffic.count
        seen, _ = traffic.newest(_KEPT)
        # answers are not split, because their rounds resemble each other
        half = _hashed(seen.owner) & np.uint64(1) == 1
        above = ADOPTED_ABOVE if traffic.trusted else 0.0
        found = refit(self._present(key), seen, half, above)
        if found is None or not (traffic.trusted or found.disagreement < _HEALED_BELOW):
            return
        self._calibration = self._calibration.renewed(key, found.temperatures, found.maps)
        traffic.since = traffic.count
        traffic.refits += 1
        _log.info("%s: the drafter's calibration for %s traffic was refitted", self._model, key[1])
        self._trust(key, traffic, found.disagreement)


def _hashed(numbers: NDArray[np.int64] | NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        return splitmix64(numbers.astype(np.uint64))
