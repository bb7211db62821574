"""A decision in columns that can be stored, in records and in sentences that people can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from outrider.policy import AUTO, EffectiveRoute
from outrider.routing.choice import BREAKS, Choice, Flags
from outrider.routing.forecast import Forecast
from outrider.routing.query import RouteQuery
from outrider.routing.roads import Closure, Road
from outrider.types import Candidates, Decision

__all__ = ["Ranking", "as_record", "packed", "records"]

_MISSING = 1
_TIMES = ("ttft_s", "tpot_s", "e2e_s", "quantile_ttft_s", "quantile_tpot_s", "quantile_e2e_s")
"""The first rows of a forecast's block."""
_STALE_WORTH_SAYING = 1.1


@dataclass(frozen=True, slots=True)
class Ranking:
    """All that went into a decision; arrays are [R, C, D]. keeps: by hard limit, who keeps it."""

    query: RouteQuery
    rules: EffectiveRoute
    closures: Sequence[Closure]
    forecast: Forecast
    exists: Flags
    keeps: Mapping[str, Flags]
    choice: Choice

    @property
    def road(self) -> Road:
        """The road of the chosen candidate."""
        return self.forecast.roads[self.forecast.place(self.choice.winner)[0]]

    def reasons(self) -> Iterator[str]:
        """Why this one, in short sentences, the most important first."""
        query, found, choice, road = self.query, self.forecast, self.choice, self.road
        name, winner, tier = road.model.name, choice.winner, query.tenant.tier
        _, slot, at = found.place(winner)
        depth = int(found.axes.depths[at])
        asked = f"auto, objective {self.rules.objective}" if query.model == AUTO else f"{name} was asked for"
        yield (
            f"{asked}: {name} on {road.snapshot.replica} at depth up to {depth} in class "
            f"{tier.batch_classes[slot].name}, first token in {found.typical.ttft_s.flat[winner] * 1e3:.0f} ms, "
            f"then {found.typical.tpot_s.flat[winner] * 1e3:.1f} ms per token, ${road.cost_usd:.8f}"
        )
        if self.rules.names:
            yield f"routes of the policy: {', '.join(self.rules.names)}"
        if choice.explored:
            yield f"explored: one of {choice.kept_all} candidates that keep everything, taken by the seed"
        if depth == 0:
            yield self._why_depth_zero()
        if dropped := int((self.exists & ~choice.open_).sum()):
            yield f"{dropped} of {int(self.exists.sum())} candidates break a limit of the request"
        yield from (f"left out: {closure.why}" for closure in self.closures)
        if missed := [each for each, miss in zip(choice.promises, choice.misses, strict=True) if miss.flat[winner] > 0]:
            yield (
                f"no candidate keeps the targets of tier {tier.name} better: {' and '.join(missed)} missed "
                f"(given up in this order: {', '.join(tier.degrade) or 'nothing'})"
            )
        if road.limited_by_cost:
            yield f"the money limit ends the answer at {road.max_tokens} tokens"
        if road.widening >= _STALE_WORTH_SAYING:
            yield (
                f"the load report of {road.snapshot.replica} is {road.age_s:.1f} s old: quantiles × {road.widening:.2f}"
            )

    def _why_depth_zero(self) -> str:
        if not self.road.snapshot.drafter_ready:
            return f"depth 0: no drafter is attached to {self.road.model.name}"
        if self.rules.max_depth == 0:
            return f"depth 0: the policy turns speculation off for tenant {self.query.tenant.name}"
        return "depth 0: at this load verifying drafts would cost more than it gives"


def packed(ranking: Ranking) -> Candidates:
    """All candidates as an event keeps them."""
    found, choice = ranking.forecast, ranking.choice
    flags = np.where(ranking.exists, np.uint8(0), np.uint8(_MISSING))
    for name, kept in ranking.keeps.items():
        flags[~kept] |= BREAKS[name]
    misses = tuple([f"misses_{name}" for name in choice.promises])
    block = np.empty((len(_TIMES) + 1 + len(misses), flags.size), dtype="<f4")
    for rows, values in ((slice(6), found.block[:6]), (slice(6, 7), choice.score), (slice(7, None), choice.misses)):
        block[rows] = values.reshape(-1, flags.size)
    return Candidates(
        roads=tuple([(road.model.name, road.snapshot.replica) for road in found.roads]),
        classes=tuple([each.name for each in ranking.query.tenant.tier.batch_classes]),
        depths=tuple(found.axes.depths.astype(int).tolist()),
        winner=choice.winner,
        cost_usd=tuple([road.cost_usd for road in found.roads]),
        quality=tuple([road.quality for road in found.roads]),
        columns={name: column.tobytes() for name, column in zip((*_TIMES, "score", *misses), block, strict=True)},
        flags=flags.tobytes(),
        misses=misses,
        closed=tuple([(closure.model, closure.why) for closure in ranking.closures]),
    )


def records(candidates: Candidates) -> list[dict[str, object]]:
    """Every candidate as a flat record, the winner first and the rest by rank; those that break a limit come after
    all others, and closed models last, with no predictions."""
    columns = {name: np.frombuffer(raw, dtype="<f4") for name, raw in candidates.columns.items()}
    flags = np.frombuffer(candidates.flags, dtype=np.uint8)
    classes, depths = len(candidates.classes), len(candidates.depths)
    found: list[dict[str, object]] = []
    for index in _order(candidates, columns, flags):
        road, rest = divmod(index, classes * depths)
        slot, depth = divmod(rest, depths)
        broken = [f"{name}_ms" for name, bit in BREAKS.items() if flags[index] & bit]
        model, replica = candidates.roads[road]
        found.append(
            {
                "model": model,
                "replica": replica,
                "depth_cap": candidates.depths[depth],
                "batch_class": candidates.classes[slot],
                **{name: float(column[index]) for name, column in columns.items()},
                "cost_usd": candidates.cost_usd[road],
                "quality": candidates.quality[road],
                "feasible": not broken,
                "why_not": f"breaks {', '.join(broken)}" if broken else None,
            }
        )
    empty = dict.fromkeys(found[0]) if found else {}
    closed = [empty | {"model": model, "feasible": False, "why_not": why} for model, why in candidates.closed]
    return [*found, *closed]


def _order(candidates: Candidates, columns: Mapping[str, NDArray[np.float32]], flags: NDArray[np.uint8]) -> list[int]:
    if not len(flags):
        return []
    keys = [flags > 0, *(columns[name] for name in candidates.misses), columns["score"], columns["quantile_e2e_s"]]
    order = [int(at) for at in np.lexsort(keys[::-1]) if not flags[at] & _MISSING]
    order.remove(candidates.winner)
    return [candidates.winner, *order]


def as_record(decision: Decision) -> dict[str, object]:
    """A decision with its candidates unpacked, ready for JSON."""
    bare = asdict(replace(decision, candidates=Candidates()))
    return bare | {"candidates": records(decision.candidates)}
