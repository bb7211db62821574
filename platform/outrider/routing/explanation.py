"""A decision in records that can be stored and replayed, and in sentences that people can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from outrider.policy import AUTO
from outrider.routing.prediction import Floats, Integers
from outrider.routing.query import RouteQuery
from outrider.routing.roads import Closure, Road
from outrider.routing.table import Flags, Table

__all__ = ["Ranking"]

_STALE_WORTH_SAYING = 1.1


@dataclass(frozen=True, slots=True)
class Ranking:
    """All that went into a decision.

    order: candidates best first, the open ones before those that break a limit; shape [n] like every array here.
    open_: keeps every hard limit; keeps: by limit. miss: of the soft targets. score: what the objective gave.
    """

    query: RouteQuery
    roads: Sequence[Road]
    closures: Sequence[Closure]
    table: Table
    keeps: Mapping[str, Flags]
    open_: Flags
    miss: Floats
    score: Floats
    order: Integers

    @property
    def winner(self) -> int:
        """Index of the chosen candidate in every column."""
        return int(self.order[0])

    @property
    def road(self) -> Road:
        """The road of the chosen candidate."""
        return self.roads[int(self.table.road[self.winner])]

    def records(self) -> tuple[dict[str, object], ...]:
        """Every candidate, best first, the winner at index 0; closed models last, with no predictions.

        Times are those that ranked: with the margin for the age of the snapshot.
        """
        table, times = self.table, self.table.margin
        columns = (table.road, table.slot, table.depth, times.ttft_s, times.tpot_s, times.e2e_s, self.score)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        records: list[dict[str, object]] = []
        for index in self.order.tolist():
            road_index, slot, depth, ttft_s, tpot_s, e2e_s, score = rows[index]
            road, why_not = self.roads[road_index], self._why_not(index)
            records.append(
                {
                    "model": road.model.name,
                    "replica": road.snapshot.replica,
                    "depth_cap": depth,
                    "batch_class": road.batch_classes[slot].name,
                    "ttft_s": ttft_s,
                    "tpot_s": tpot_s,
                    "e2e_s": e2e_s,
                    "cost_usd": road.cost_usd,
                    "quality": road.quality,
                    "feasible": why_not is None,
                    "why_not": why_not,
                    "score": score,
                }
            )
        return (*records, *map(_closed_record, self.closures))

    def _why_not(self, index: int) -> str | None:
        broken = [f"{name}_ms" for name, kept in self.keeps.items() if not kept[index]]
        return f"breaks {', '.join(broken)}" if broken else None

    def reasons(self) -> Iterator[str]:
        """Why this one, in short sentences, the most important first."""
        tenant, road, winner, times = self.query.tenant, self.road, self.winner, self.table.margin
        name, depth = road.model.name, int(self.table.depth[winner])
        asked = f"auto, objective {tenant.objective}" if self.query.model == AUTO else f"{name} was asked for"
        yield (
            f"{asked}: {name} at depth {depth} in class {road.batch_classes[self.table.slot[winner]].name}, "
            f"first token in {times.ttft_s[winner] * 1e3:.0f} ms, "
            f"then {times.tpot_s[winner] * 1e3:.1f} ms per token, ${road.cost_usd:.8f}"
        )
        if depth == 0:
            yield self._why_depth_zero()
        if dropped := int((~self.open_).sum()):
            yield f"{dropped} of {self.open_.size} candidates break a limit of the request"
        yield from (f"left out: {closure.why}" for closure in self.closures)
        if self.miss[winner] > 0:
            yield f"no candidate keeps the targets of tier {tenant.tier.name}; this one misses them least"
        if road.limited_by_cost:
            yield f"the money limit ends the answer at {road.max_tokens} tokens"
        if road.widening >= _STALE_WORTH_SAYING:
            yield f"the load report of {name} is {road.age_s:.1f} s old: predictions × {road.widening:.2f}"

    def _why_depth_zero(self) -> str:
        if not self.road.snapshot.drafter_ready:
            return f"depth 0: no drafter is attached to {self.road.model.name}"
        if self.query.tenant.max_depth == 0:
            return f"depth 0: the policy turns speculation off for tenant {self.query.tenant.name}"
        return "depth 0: at this load verifying drafts would cost more than it gives"


def _closed_record(closure: Closure) -> dict[str, object]:
    unknown = ("depth_cap", "batch_class", "ttft_s", "tpot_s", "e2e_s", "cost_usd", "quality", "score")
    return {
        "model": closure.model,
        "replica": None,
        **dict.fromkeys(unknown),
        "feasible": False,
        "why_not": closure.why,
    }
