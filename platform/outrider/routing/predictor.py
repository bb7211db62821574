"""What outcomes teach: how far predictions are off, and how long answers get. No clock, no I/O; one per gateway."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outrider.routing.corrections import Corrections, OutputLength, Spread, cell_of
from outrider.types import PredictionBasis

__all__ = ["Observed", "Predictor"]

WINDOW = 96
"""Outcomes kept of a cell: they place a 90 % quantile within 3 points, and an old load must be forgotten soon."""
MOST_CELLS = 1024
OWN_WINDOW, MOST_REPLICAS = 64, 256
WORTH_TELLING = math.log(1.1)
"""A replica that differs less from its model's others is one of them."""
REFIT_EVERY = 16
"""Outcomes between two states: a decision must not move with every answer before it."""
PRIOR = 12
"""Outcomes that a cell must have to weigh as much as what is known of its model."""
WARM_S, FRESH_S = 2.0, 3.0
"""A replica that just started or took on another step, and a load report as old as that, prove nothing."""
LEAST_TOKENS = 8
"""Of an answer whose pace is worth a look."""
LEAST_LENGTHS = 20
LEAST_DRAFTED = 64.0
SHIFT = math.log(8)
"""A correction is within a factor of eight: what is further off is broken, not mispredicted."""
SPREAD = (math.log(1.05), math.log(16))
RATIO = (0.25, 4.0)
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
_COVERED = 0.9


@dataclass(frozen=True, slots=True)
class Observed:
    """What happened to a request whose prediction is known; None where it did not get that far.

    ttft_s: from its decision to its first token. tpot_s: of the slowest choice. tokens: of each choice. rounds:
    (admitted, accepted) of every decode round. cut: whether a limit ended it, and it might have been longer.
    """

    ttft_s: float | None
    tpot_s: float | None
    tokens: Sequence[int] = ()
    rounds: Sequence[tuple[int, int]] = ()
    cut: bool = False


class Predictor:
    """Fed with pairs of prediction and outcome; `state` is what `decide` takes, and changes every 16 of them.

    Ratios of outcome to raw prediction are kept by model × load × prompt length and by model: their median corrects,
    and their quantile of rank ⌈0.9 (n + 1)⌉ is what nine of ten alike do not pass (conformal prediction).
    Outliers move neither by more than their share. Of cells the least recently seen are dropped. What is left over, by
    replica, tells one that has become slow from its like.
    """

    def __init__(self) -> None:
        self._ttft: OrderedDict[str, deque[float]] = OrderedDict()
        self._tpot: OrderedDict[str, deque[float]] = OrderedDict()
        self._own: OrderedDict[str, tuple[deque[float], deque[float]]] = OrderedDict()
        """By replica: ratios of TTFT and TPOT over the corrected medians of its model."""
        self._lengths: OrderedDict[str, deque[tuple[int, bool]]] = OrderedDict()
        """(tokens, whether cut)."""
        self._drafted: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """(expected, accepted) drafted tokens, decaying."""
        self._known: dict[str, OutputLength] = {}
        self._touched: set[str] = set()
        """Cells of lengths, one per tenant and more, since the last refit: only these are fitted again."""
        self._count = 0
        self._state = Corrections()

    def state(self) -> Corrections:
        """The same object until the next refit."""
        return self._state

    def observe(self, basis: PredictionBasis, observed: Observed) -> None:
        """Take one outcome in. Cold replicas and stale reports teach nothing about times, several choices neither."""
        if basis.warm_s >= WARM_S and basis.age_s <= FRESH_S and basis.choices == 1:
            ttft_own, tpot_own = _replica(self._own, basis.replica)
            load = basis.running + basis.queued
            ttft, tpot = self._state.spreads(basis.model, load, basis.places, basis.prompt_tokens)
            if (ratio := _ratio(observed.ttft_s, basis.ttft_s)) is not None:
                self._count_in(self._ttft, basis, ratio)
                ttft_own.append(ratio - ttft.median)
            ratio = _ratio(observed.tpot_s, basis.tpot_s)
            if ratio is not None and sum(observed.tokens) >= LEAST_TOKENS:
                self._count_in(self._tpot, basis, ratio)
                tpot_own.append(ratio - tpot.median)
        for key in (f"{basis.tenant}/{basis.domain}/{basis.model}", f"{basis.domain}/{basis.model}", basis.model):
            _window(self._lengths, key).extend((tokens, observed.cut) for tokens in observed.tokens if tokens > 0)
            self._touched.add(key)
        self._accepted(basis, observed.rounds)
        self._count += 1
        if self._count % REFIT_EVERY == 0:
            self._state = self._fitted()

    def _count_in(self, cells: OrderedDict[str, deque[float]], basis: PredictionBasis, ratio: float) -> None:
        cell = cell_of(basis.model, basis.running + basis.queued, basis.places, basis.prompt_tokens)
        for key in (cell, basis.model):
            _window(cells, key).append(ratio)

    def _accepted(self, basis: PredictionBasis, rounds: Sequence[tuple[int, int]]) -> None:
        last = len(basis.accepted) - 1
        expected = sum(basis.accepted[min(admitted, last)] - 1.0 for admitted, _ in rounds if admitted)
        if expected <= 0:
            return
        accepted = sum(accepted for admitted, accepted in rounds if admitted)
        for key in (f"{basis.model}/{basis.domain}/{basis.tenant}", f"{basis.model}/{basis.domain}"):
            before = self._drafted.pop(key, (0.0, 0.0))
            self._drafted[key] = (0.99 * before[0] + expected, 0.99 * before[1] + accepted)
            if len(self._drafted) > MOST_CELLS:
                self._drafted.popitem(last=False)

    def _fitted(self) -> Corrections:
        lengths = {key: self._known[key] for key in (self._known.keys() & self._lengths.keys()) - self._touched}
        for key in self._touched & self._lengths.keys():
            if len(self._lengths[key]) >= LEAST_LENGTHS:
                lengths[key] = _length(self._lengths[key])
        self._known = lengths
        self._touched.clear()
        survival = {
            key: min(max(accepted / expected, RATIO[0]), RATIO[1])
            for key, (expected, accepted) in self._drafted.items()
            if expected >= LEAST_DRAFTED
        }
        return Corrections(
            f"p{self._count}",
            dict(_spreads(self._ttft)),
            dict(_spreads(self._tpot)),
            lengths,
            survival,
            {name: shifts for name, own in self._own.items() if any(shifts := (_shift(own[0]), _shift(own[1])))},
        )


def _ratio(happened_s: float | None, predicted_s: float) -> float | None:
    """Logarithm of outcome ÷ raw prediction."""
    if happened_s is None or happened_s <= 0 or predicted_s <= 0:
        return None
    return math.log(happened_s / predicted_s)


def _replica(known: OrderedDict[str, tuple[deque[float], deque[float]]], name: str) -> tuple[deque[float], ...]:
    """The replica's windows, the last to be dropped."""
    own = known.pop(name, None)
    if own is None:
        own = deque(maxlen=OWN_WINDOW), deque(maxlen=OWN_WINDOW)
    known[name] = own
    if len(known) > MOST_REPLICAS:
        known.popitem(last=False)
    return own


def _shift(left_over: Sequence[float]) -> float:
    """Their median, drawn towards 0 by how few they are; 0 where it is not worth telling."""
    if not left_over:
        return 0.0
    median = sorted(left_over)[len(left_over) // 2] * len(left_over) / (len(left_over) + PRIOR)
    return min(max(median, -SHIFT), SHIFT) if abs(median) >= WORTH_TELLING else 0.0


def _window(cells: OrderedDict[str, deque], key: str) -> deque:  # type: ignore[type-arg]
    """The cell's window, the last to be dropped."""
    window = cells.pop(key, None)
    if window is None:
        window = deque(maxlen=WINDOW)
    cells[key] = window
    if len(cells) > MOST_CELLS:
        cells.popitem(last=False)
    return window


def _spreads(cells: OrderedDict[str, deque[float]]) -> Iterator[tuple[str, Spread]]:
    """Of each cell, drawn towards its model's by how little is known of it; the model's towards no correction."""
    models = {key: _spread(each, Spread()) for key, each in cells.items() if "/" not in key}
    yield from models.items()
    for key, each in cells.items():
        if "/" in key:
            yield key, _spread(each, models.get(key.partition("/")[0], Spread()))


def _spread(ratios: Sequence[float], prior: Spread) -> Spread:
    ordered, share = sorted(ratios), len(ratios) / (len(ratios) + PRIOR)
    rank = min(len(ordered), math.ceil(_COVERED * (len(ordered) + 1)))
    median = share * ordered[len(ordered) // 2] + (1 - share) * prior.median
    upper = share * ordered[rank - 1] + (1 - share) * prior.upper
    median = min(max(median, -SHIFT), SHIFT)
    return Spread(median, min(max(upper, median + SPREAD[0]), median + SPREAD[1]))


def _length(lengths: Sequence[tuple[int, bool]]) -> OutputLength:
    """Quantiles of the lengths that answers would have without limits, by the product-limit estimator.

    E. Kaplan and P. Meier, 1958: an answer that was cut says only that it would have been longer. Quantiles that so few
    reached whole are left out; where none is known, that most are as long as the longest is.
    """
    points, alive, wanted = [], 1.0, iter(_QUANTILES)
    quantile = next(wanted, None)
    for before, (tokens, cut) in enumerate(sorted(lengths)):
        alive *= 1.0 if cut else 1.0 - 1.0 / (len(lengths) - before)
        while quantile is not None and 1.0 - alive >= quantile - 1e-9:
            points.append((quantile, float(tokens)))
            quantile = next(wanted, None)
    return OutputLength(tuple(points) or ((0.0, float(max(lengths)[0])),))
