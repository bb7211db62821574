"""The waiting line under any traffic: everybody leaves once, the order is the promised one, nobody starves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.gateway.line import Line, Waiter

MODELS = ("flash", "pro")
AGEING = 2.0

steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "join", "next", "next", "leave"]),
        st.sampled_from(["acme", "bolt", "cove"]),
        st.sampled_from(MODELS),
        st.sampled_from([10.0, 50.0, 52.0]),
        st.sampled_from([0.0, 0.25, 3.0]),
        st.sets(st.sampled_from(MODELS)),
    ),
    max_size=60,
)


def urgency(waiter: Waiter, now_s: float) -> float:
    return waiter.priority + AGEING * (now_s - waiter.since_s)


@dataclass
class Watched:
    """A line, and a plain account of who should be in it."""

    line: Line
    most: int = 6
    now_s: float = 0.0
    inside: dict[str, Waiter] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)
    joined: int = 0

    def step(self, kind: str, tenant: str, model: str, priority: float, pass_s: float, room: set[str]) -> None:
        self.now_s += pass_s
        if kind == "join":
            self.join(tenant, model, priority)
        elif kind == "next":
            self.next(room)
        elif self.inside:
            gone = next(iter(self.inside))
            assert self.line.leave(gone)
            assert not self.line.leave(gone)
            self.out(gone)
        assert len(self.line) == len(self.inside)
        assert {each.id for each in self.line} == set(self.inside)

    def join(self, tenant: str, model: str, priority: float) -> None:
        self.joined += 1
        waiter = Waiter(f"w{self.joined}", tenant, model, priority, self.now_s)
        self.inside[waiter.id] = waiter
        shed = self.line.join(waiter, self.now_s, ageing_per_s=AGEING, most=self.most)
        assert (shed is not None) == (len(self.inside) > self.most)
        if shed is not None:
            self.check_shed(shed)
            self.out(shed.id)

    def check_shed(self, shed: Waiter) -> None:
        """Its band holds the least urgent of all, and it is the newest of its tenant there."""
        band = self.band(shed)
        least = min(urgency(each, self.now_s) for each in self.inside.values())
        assert min(urgency(each, self.now_s) for each in band) == least
        own = [each for each in band if each.tenant == shed.tenant]
        assert own[-1] is shed
        assert len(own) == max(Counter(each.tenant for each in band).values())

    def next(self, room: set[str]) -> None:
        taken = self.line.next(room.__contains__, self.now_s, ageing_per_s=AGEING)
        able = [each for each in self.inside.values() if each.model in room]
        assert (taken is not None) == bool(able)
        if taken is None:
            return
        assert taken.model in room
        band = self.band(taken)
        assert max(urgency(each, self.now_s) for each in band) == max(urgency(each, self.now_s) for each in able)
        assert next(each for each in band if each.tenant == taken.tenant) is taken
        self.out(taken.id)

    def band(self, of: Waiter) -> list[Waiter]:
        return [each for each in self.inside.values() if (each.priority, each.model) == (of.priority, of.model)]

    def out(self, waiter_id: str) -> None:
        del self.inside[waiter_id]
        self.left[waiter_id] += 1
        assert self.left[waiter_id] == 1


def run(line: Line, script: list[tuple[Any, ...]]) -> None:
    watched = Watched(line)
    for each in script:
        watched.step(*each)
    while watched.inside:
        watched.step("next", "", "", 0.0, 0.0, set(MODELS))
    assert sum(watched.left.values()) == watched.joined
    assert line.next(lambda _: True, watched.now_s, ageing_per_s=AGEING) is None


@given(steps)
def test_everybody_leaves_once_in_the_promised_order(script: list[tuple[Any, ...]]) -> None:
    run(Line(), script)


def waits_until_taken(line: Line, *, priority: float, rivals_per_s: int, rival_priority: float) -> float | None:
    """How long one waiter stays while a line of more important rivals never ends; None for longer than 100 s."""
    line.join(Waiter("patient", "low", "flash", priority, 0.0), 0.0, ageing_per_s=AGEING, most=10_000)
    for tick in range(100 * rivals_per_s):
        now_s = tick / rivals_per_s
        rival = Waiter(f"r{tick}", f"t{tick % 3}", "flash", rival_priority, now_s)
        line.join(rival, now_s, ageing_per_s=AGEING, most=10_000)
        taken = line.next(lambda _: True, now_s, ageing_per_s=AGEING)
        if taken is not None and taken.id == "patient":
            return now_s
    return None


@given(st.sampled_from([0.0, 10.0, 49.0]), st.integers(1, 20))
@settings(max_examples=25)
def test_nobody_starves(priority: float, rivals_per_s: int) -> None:
    waited_s = waits_until_taken(Line(), priority=priority, rivals_per_s=rivals_per_s, rival_priority=50.0)
    assert waited_s is not None
    assert waited_s <= (50.0 - priority) / AGEING + 1.0


def test_tenants_of_one_priority_take_turns() -> None:
    line = Line()
    for at, tenant in enumerate(["flood"] * 6 + ["calm", "calm", "late"]):
        line.join(Waiter(f"{tenant}{at}", tenant, "flash", 50.0, float(at)), float(at), ageing_per_s=AGEING, most=100)
    order = [line.next(lambda _: True, 10.0, ageing_per_s=AGEING) for _ in range(9)]
    assert [each.tenant for each in order if each] == [*["flood", "calm", "late"], *["flood", "calm"], *["flood"] * 4]


def test_who_floods_a_full_line_loses_its_own() -> None:
    line = Line()
    for at in range(4):
        assert line.join(Waiter(f"f{at}", "flood", "flash", 50.0, 0.0), 0.0, ageing_per_s=AGEING, most=4) is None
    shed = line.join(Waiter("c", "calm", "flash", 50.0, 1.0), 1.0, ageing_per_s=AGEING, most=4)
    assert shed is not None
    assert shed.id == "f3"
    newcomer = Waiter("low", "other", "flash", 10.0, 1.0)
    assert line.join(newcomer, 1.0, ageing_per_s=AGEING, most=4) is newcomer


def test_the_line_says_how_long_it_takes_to_drain() -> None:
    line = Line()
    for at in range(10):
        line.join(Waiter(f"w{at}", "acme", "flash", 50.0, 0.0), 0.0, ageing_per_s=AGEING, most=100)
    assert line.drain_s(0.0) is None
    for second in range(1, 6):
        line.next(lambda _: True, float(second), ageing_per_s=AGEING)
    assert line.drain_s(5.0) == pytest.approx(5.0)  # five in 5 s, five are left
    assert line.ahead("flash", 50.0).requests == 5
    assert line.ahead("flash", 51.0).requests == line.ahead("pro", 0.0).requests == 0


def last_come(line: Line) -> None:
    for band in line._bands.values():
        for tenant, queue in band.turns.items():
            band.turns[tenant] = type(queue)(reversed(queue.items()))


class LastCome(Line):
    def next(self, has_room: Any, now_s: float, *, ageing_per_s: float) -> Waiter | None:
        last_come(self)
        return super().next(has_room, now_s, ageing_per_s=ageing_per_s)


class NoAgeing(Line):
    def next(self, has_room: Any, now_s: float, *, ageing_per_s: float) -> Waiter | None:
        return super().next(has_room, now_s, ageing_per_s=0.0)


class NoRoomAsked(Line):
    def next(self, has_room: Any, now_s: float, *, ageing_per_s: float) -> Waiter | None:
        return super().next(lambda _: True, now_s, ageing_per_s=ageing_per_s)


class ShedsTheFirst(Line):
    def join(self, waiter: Waiter, now_s: float, *, ageing_per_s: float, most: int) -> Waiter | None:
        super().join(waiter, now_s, ageing_per_s=ageing_per_s, most=10**9)
        if len(self) <= most:
            return None
        shed = next(iter(self))
        self.leave(shed.id)
        return shed


class Forgets(Line):
    def leave(self, waiter_id: str) -> bool:
        return waiter_id in self._waiting


@pytest.mark.parametrize("broken", [LastCome, NoAgeing, NoRoomAsked, ShedsTheFirst, Forgets])
def test_a_broken_line_is_found(broken: type[Line]) -> None:
    @given(steps)
    @settings(max_examples=2000, derandomize=True, database=None, report_multiple_bugs=False)
    def check(script: list[tuple[Any, ...]]) -> None:
        run(broken(), script)

    with pytest.raises(AssertionError):
        check()


def test_without_ageing_somebody_starves() -> None:
    assert waits_until_taken(NoAgeing(), priority=10.0, rivals_per_s=5, rival_priority=50.0) is None
