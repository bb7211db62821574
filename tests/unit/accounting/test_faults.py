"""A database that cannot be written: requests with budgets are refused, settlements wait, and it recovers by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from outrider.accounting import AccountingOwner, LeasedAccountant
from outrider.database import open_database
from outrider.errors import AccountingUnavailable
from outrider.policy import Limits
from support.accounts import DAILY, ask, policy_of, settlement, totals


@pytest.mark.parametrize("fault", ["locked", "full"])
async def test_what_is_settled_waits_for_the_database(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.database.engine._BUSY_S", 0.05)
    policy = policy_of({"acme": Limits(budgets=(DAILY,)), "free": Limits()})
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    owner = AccountingOwner(database, lambda: policy)
    await owner.start()
    accountant = LeasedAccountant(owner, lambda: policy)
    other = sqlite3.connect(tmp_path / "outrider.db", isolation_level=None)

    def limit_pages(pages: int) -> None:
        """Of every connection: there is one, as the owner has one thread."""
        with database.engine.connect() as connection:
            connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))

    try:
        paying = ask(policy.tenants["acme"])
        held = await accountant.reserve(paying)
        if fault == "locked":
            other.execute("BEGIN IMMEDIATE")
        else:
            limit_pages(1)
        free = ask(policy.tenants["free"])
        unlimited = await accountant.reserve(free)
        tags = tuple("x" * 4000 for _ in range(20))
        settling = [
            asyncio.create_task(accountant.settle(held, settlement(paying, tags=tags))),
            asyncio.create_task(accountant.settle(unlimited, settlement(free, tags=tags))),
        ]
        with pytest.raises(AccountingUnavailable):
            await accountant.reserve(ask(policy.tenants["acme"], predicted_usd=0.9, floor_usd=0.9))
        assert not any(each.done() for each in settling)
        assert totals(database)["rows"] == 0
        if fault == "locked":
            other.execute("ROLLBACK")
        else:
            limit_pages(2**30)
        await asyncio.gather(*settling)
        assert totals(database)["rows"] == 2
        assert (await accountant.reserve(ask(policy.tenants["acme"], predicted_usd=0.9))).usd == 0.9
    finally:
        other.close()
        await accountant.close()
        await owner.close()
        database.close()


async def test_a_second_owner_stops_the_first(tmp_path: Path) -> None:
    policy = policy_of({"acme": Limits(budgets=(DAILY,))})
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    first, second = AccountingOwner(database, lambda: policy), AccountingOwner(database, lambda: policy)
    await first.start()
    accountant = LeasedAccountant(first, lambda: policy)
    held = await accountant.reserve(asked := ask(policy.tenants["acme"]))
    await second.start()
    late = LeasedAccountant(first, lambda: policy, settle_patience_s=1.0)
    with pytest.raises(AccountingUnavailable):
        await late.settle(await late.reserve(ask(policy.tenants["acme"])), settlement(asked))
    accountant.release(held)
    assert totals(database)["rows"] == 0
    assert second.running
    for each in (first, second):
        await each.close()
    database.close()
