"""Whatever is lost, repeated, late or killed: nobody overspends, no settlement is lost, no lease outlives its gateway.

The machine drives the real owner core and the real books of gateways over a disk that keeps what a transaction wrote.
Each invariant has an owner that breaks it and is caught.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from outrider.accounting.books import Books, Part, Want
from outrider.accounting.holdings import Lease
from outrider.accounting.messages import Exchange, Exchanged, SettleItem
from outrider.accounting.owner import Charge, OwnerCore
from outrider.accounting.spent import Missing
from outrider.accounting.windows import window_at
from outrider.policy import Budget, Limits
from support.accounts import ask, policy_of, settlement
from support.broken import assert_caught

LIMIT_NUSD = 100
LEASE_S = 30.0
RATE = 120
LIMITS = Limits(tokens_per_minute=RATE, concurrency=3, budgets=(Budget(LIMIT_NUSD / 1e9, "day"), Budget(1e-6, "month")))
ACCOUNT = "tenant:acme"
TENANT = policy_of({"acme": LIMITS}).tenants["acme"]
START_S = 1_764_000_000.0


@dataclass
class Gateway:
    """A living gateway: its books, its requests, and what it believes of the owner."""

    name: str
    books: Books = field(default_factory=Books)
    requests: list[tuple[Part, float]] = field(default_factory=list)
    epoch: int = 0
    number: int = 0


class OwnerMachine(RuleBasedStateMachine):
    """Gateways come and go; the owner is killed; messages and answers are lost; the clock is set."""

    core_class: ClassVar[type[OwnerCore]] = OwnerCore

    def __init__(self) -> None:
        super().__init__()
        self.wall_s, self.steady_s = START_S, 1000.0
        self.rows: list[tuple[Charge, int]] = []
        self.leases: dict[Lease, int] = {}
        self.calendar_s = START_S
        self.settled_nusd: list[int] = []
        self.epoch, self.names = 0, 0
        self.tokens: list[tuple[float, int]] = []
        self.gateways: list[Gateway] = []
        self.heard_s: dict[str, float] = {}
        self.revive()
        self.begin()
        self.begin()

    # -- the world

    def revive(self) -> None:
        """A new owner reads the disk."""
        self.epoch += 1
        self.core = self.core_class(
            lambda account: LIMITS if account == ACCOUNT else Limits(),
            epoch=self.epoch,
            lease_s=LEASE_S,
            leases=dict(self.leases),
            recent={(ACCOUNT, "tokens"): self.recent_tokens()},
            calendar_s=max(self.calendar_s, self.wall_s),
            steady_s=self.steady_s,
        )
        for lease in self.leases:
            self.heard_s[lease.gateway] = self.steady_s

    def recent_tokens(self) -> int:
        return max(0, sum(tokens for at_s, tokens in self.tokens if at_s > self.steady_s - 60))

    def turn(self) -> None:
        self.core.tick(self.wall_s, self.steady_s)
        for missing in self.core.missing([ACCOUNT]):
            self.core.load(missing, sum(row.cost_nusd for row, _ in self.rows if row.charged_s in missing.window))

    def commit(self) -> None:
        changes = self.core.holdings.changes()
        self.leases.update(changes)
        self.leases = {lease: amount for lease, amount in self.leases.items() if amount}
        self.core.holdings.written(changes)
        self.calendar_s = self.core.calendar_s

    def exchange(self, gateway: Gateway, wants: tuple[Want, ...] = (), lose: bool = False) -> None:
        """One conversation; where the answer is lost the owner dies with it, so that nobody repeats it."""
        for _ in range(2):
            recalled = self.core.recalls(gateway.name)
            backs = gateway.books.backs(recalled, self.steady_s)
            message = Exchange(gateway.name, gateway.epoch, gateway.number, backs, recalled, self.needs(gateway, wants))
            if self.answer(gateway, message, lose).known:
                return
            held = gateway.books.held()
            message = Exchange(gateway.name, self.epoch, gateway.number, needs=self.needs(gateway, wants), held=held)
            gateway.epoch = self.epoch
            if self.answer(gateway, message, lose).known:
                return

    def needs(self, gateway: Gateway, wants: tuple[Want, ...]) -> Any:
        return gateway.books.needs(wants, self.steady_s, {ACCOUNT})

    def answer(self, gateway: Gateway, message: Exchange, lose: bool) -> Exchanged:
        self.turn()
        gateway.number += 1
        answer = self.core.exchange(message)
        self.commit()
        # Requests that outlived their lease keep their permits, but nobody is granted one beside them.
        if any(grant.permits for grant in answer.grants):
            assert self.core.holdings.permits(ACCOUNT) <= 3, "as many at once as may be"
        returned = sum(back.tokens for back in message.backs) if answer.known else 0
        self.tokens.append((self.steady_s, sum(grant.tokens for grant in answer.grants) - returned))
        if lose:
            self.revive()
        elif answer.known:
            self.heard_s[gateway.name] = self.steady_s
            gateway.books.apply(answer, message.held or (), self.steady_s, self.steady_s)
        return answer

    @rule()
    def begin(self) -> None:
        if len(self.gateways) < 3:
            self.names += 1
            self.gateways.append(Gateway(f"g{self.names}"))

    @precondition(lambda self: self.gateways)
    @rule(data=st.data(), nusd=st.sampled_from([60, 7, 100]), lose=st.sampled_from([False, False, True]))
    def reserve(self, data: st.DataObject, nusd: int, lose: bool) -> None:
        self.try_to_reserve(data.draw(st.sampled_from(self.gateways)), nusd, lose)

    def try_to_reserve(self, gateway: Gateway, nusd: int, lose: bool = False) -> None:
        wants = (Want(ACCOUNT, nusd, min(nusd, 3), permits=1, tokens=50),)
        taken = gateway.books.take(wants, self.steady_s)
        if taken is None:
            self.exchange(gateway, wants, lose)
            taken = gateway.books.take(wants, self.steady_s, floor=True)
        if taken is not None:
            gateway.requests.append((taken[0], self.core.calendar_s))

    @precondition(lambda self: any(each.requests for each in self.gateways))
    @rule(data=st.data(), share=st.sampled_from([1.0, 0.4, 0.0]), repeat=st.booleans())
    def settle(self, data: st.DataObject, share: float, repeat: bool) -> None:
        """Tokens are delivered up to what may be spent at this moment; the settlement may come late and twice."""
        gateway = data.draw(st.sampled_from([each for each in self.gateways if each.requests]))
        self.finish(gateway, share)
        if repeat:
            self.exchange(gateway)

    @precondition(lambda self: len(self.gateways) > 1)
    @rule(nusd=st.sampled_from([100, 60]), wait_s=st.sampled_from([0.0, 40.0]))
    def overtake(self, nusd: int, wait_s: float) -> None:
        """Another gateway spends while the first holds a reservation, in time or long after its lease."""
        first, other = self.gateways[:2]
        self.try_to_reserve(first, nusd)
        self.wait(wait_s)
        self.try_to_reserve(other, nusd)
        for gateway in (other, first):
            if gateway.requests:
                self.finish(gateway, 1.0)

    def finish(self, gateway: Gateway, share: float) -> None:
        part, charged_s = gateway.requests.pop()
        cost_nusd = round(share * part.money_nusd)
        self.turn()
        asked = ask(TENANT)
        item = SettleItem(settlement(asked, cost_nusd / 1e9), ((ACCOUNT, part.span),), charged_s)
        charge = self.core.charge(gateway.name, item)
        self.rows.append((charge, cost_nusd))
        self.commit()
        self.settled_nusd.append(cost_nusd)
        gateway.books.settle([part], cost_nusd, 50)

    @precondition(lambda self: any(each.requests for each in self.gateways))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        gateway = data.draw(st.sampled_from([each for each in self.gateways if each.requests]))
        gateway.books.release([gateway.requests.pop(0)[0]])

    @precondition(lambda self: self.gateways)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        self.exchange(data.draw(st.sampled_from(self.gateways)))

    @precondition(lambda self: self.gateways)
    @rule(data=st.data())
    def kill_gateway(self, data: st.DataObject) -> None:
        self.gateways.remove(data.draw(st.sampled_from(self.gateways)))

    @rule()
    def kill_owner(self) -> None:
        self.revive()

    @rule(seconds=st.sampled_from([0.1, 1.0, 15.0, 40.0, 3600.0, 43_200.0]))
    def wait(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds
        self.turn()
        self.commit()

    @rule(seconds=st.sampled_from([-90_000.0, -3600.0, 3600.0, 90_000.0]))
    def set_clock(self, seconds: float) -> None:
        self.wall_s += seconds
        self.turn()
        self.commit()

    # -- the invariants

    @invariant()
    def no_overspend(self) -> None:
        spent: Counter[object] = Counter()
        for charge, _ in self.rows:
            spent[window_at("day", "UTC", charge.charged_s)] += charge.cost_nusd
        assert all(nusd <= LIMIT_NUSD for nusd in spent.values()), "no overspend"

    @invariant()
    def no_settlement_is_lost(self) -> None:
        assert [cost for _, cost in self.rows] == self.settled_nusd
        assert all(row.cost_nusd + row.forgiven_nusd == cost for row, cost in self.rows), "no lost settlement"

    @invariant()
    def no_lease_outlives_its_gateway(self) -> None:
        self.turn()
        self.commit()
        late = [each for each in self.leases if self.steady_s - self.heard_s[each.gateway] > LEASE_S]
        assert not late, "no reservation outlives its lease"

    @invariant()
    def windows_add_up(self) -> None:
        self.turn()
        window = window_at("day", "UTC", self.core.calendar_s)
        rows = sum(row.cost_nusd for row, _ in self.rows if row.charged_s in window)
        assert self.core.spent.nusd(ACCOUNT, window) == rows, "windows are sums of settlements"

    @invariant()
    def rates_hold(self) -> None:
        earned = RATE + (self.steady_s - 1000.0) * RATE / 60
        assert sum(tokens for _, tokens in self.tokens) <= earned + 1e-6, "rates are kept"


SETTINGS = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_the_owner_keeps_its_invariants() -> None:
    run_state_machine_as_test(OwnerMachine, settings=SETTINGS)


class LendsWithoutLooking(OwnerCore):
    """Forgets what other gateways hold."""

    def available_nusd(self, account: str) -> int:
        return super().available_nusd(account) + self.holdings.money_nusd(
            account, window_at("day", "UTC", self.calendar_s)
        )


class ForgetsToBook(OwnerCore):
    """Writes the row, not the window."""

    def charge(self, gateway: str, item: SettleItem) -> Charge:
        charge = super().charge(gateway, item)
        self.spent.charge(ACCOUNT, charge.charged_s, -charge.cost_nusd)
        return charge


class LosesMoney(OwnerCore):
    """Rounds a settlement down."""

    def charge(self, gateway: str, item: SettleItem) -> Charge:
        charge = super().charge(gateway, item)
        return charge._replace(cost_nusd=charge.cost_nusd // 2)


class NeverForgets(OwnerCore):
    """Dead gateways keep their leases."""

    def _forget(self, gateway: str) -> None:
        self._heard_s[gateway] = self.steady_s


class ChargesEverything(OwnerCore):
    """Late settlements count in full."""

    def charge(self, gateway: str, item: SettleItem) -> Charge:
        charge = super().charge(gateway, item)
        self.spent.charge(ACCOUNT, charge.charged_s, charge.forgiven_nusd)
        return charge._replace(cost_nusd=charge.cost_nusd + charge.forgiven_nusd, forgiven_nusd=0)


class ForgetsTheWindow(OwnerCore):
    """Begins every window at nothing, as if the ledger were empty."""

    def load(self, missing: Missing, nusd: int) -> None:
        super().load(missing, 0)


class AnyRate(OwnerCore):
    """Tokens are free."""

    def _grant_rate(self, account: str, resource: Any, want: int, short: Any) -> int:
        return want


class AnyPermits(OwnerCore):
    """So are permits."""

    def _grant_permits(self, gateway: str, need: Any, limits: Limits) -> int:
        return int(need.permits)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (LendsWithoutLooking, "no overspend|no lost|windows"),
        (ForgetsToBook, "windows are sums|no overspend"),
        (LosesMoney, "no lost settlement|windows"),
        (NeverForgets, "outlives its lease"),
        (ChargesEverything, "no overspend"),
        (ForgetsTheWindow, "windows are sums|no overspend"),
        (AnyRate, "rates are kept"),
        (AnyPermits, "as many at once"),
    ],
)
def test_a_broken_owner_is_caught(broken: type[OwnerCore], words: str) -> None:
    assert_caught(OwnerMachine, SETTINGS, words, examples=300, core_class=broken)
