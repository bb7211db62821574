"""What of accounting is on the disk. Blocking; `service.py` calls it on one thread of its own.

Durable are: settlements, with the windows they count in, and what each gateway holds, both in one transaction, so that
a sum of a window and its rows never differ. Not durable: rates (a new owner reads the last minute's use off the ledger)
and when a lease ends (a new owner gives each one a lease's time, and takes back what nobody claims).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from outrider.accounting.holdings import Lease
from outrider.accounting.messages import Resource
from outrider.accounting.owner import Charge
from outrider.accounting.spent import Missing
from outrider.accounting.types import Settlement, accounts_of
from outrider.accounting.windows import QUARTER_S, Window
from outrider.database import Database
from outrider.database.tables import LEASES, LEDGER, OWNER, SPENT
from outrider.errors import DatabaseError

__all__ = ["Ledger", "Row", "Start"]

_AT_ONCE = 500
"""Most ids in one statement."""


class Row(NamedTuple):
    """A settlement and what it came to."""

    settlement: Settlement
    charge: Charge


class Start(NamedTuple):
    """What a new owner finds."""

    epoch: int
    calendar_s: float
    leases: dict[Lease, int]
    recent: dict[tuple[str, Resource], int]


class Ledger:
    """Raises DatabaseError; what a call was to write is then not written, and the call may be repeated."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._epoch = 0
        self.replaced = False
        """Another owner has taken over; nothing can be written here any more."""

    def take_over(self, wall_s: float) -> Start:
        """Become the one owner that may write; an earlier one's next transaction fails."""
        with self._database.write() as connection:
            raised = sa.update(OWNER).values(epoch=OWNER.c.epoch + 1).returning(OWNER.c.epoch, OWNER.c.calendar_s)
            self._epoch, calendar_s = connection.execute(raised).one()
            calendar_s = max(calendar_s, wall_s)
            leases = {
                Lease(row.gateway, row.account, row.kind, Window(row.span_start_s, row.span_end_s)): row.amount
                for row in connection.execute(sa.select(LEASES))
            }
            return Start(self._epoch, calendar_s, leases, _recent(connection, calendar_s))

    def look(self, decisions: Sequence[str], windows: Sequence[Missing]) -> tuple[set[str], list[int]]:
        """Which decisions have been settled, and what was spent in windows."""
        known: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(decisions), _AT_ONCE):
                asked = LEDGER.c.decision_id.in_(decisions[start : start + _AT_ONCE])
                known.update(connection.execute(sa.select(LEDGER.c.decision_id).where(asked)).scalars())
            return known, [_spent(connection, *each) for each in windows]

    def commit(self, rows: Sequence[Row], leases: Mapping[Lease, int], calendar_s: float) -> None:
        """Write rows, the windows they count in, and leases (0: none any more), durably and together."""
        with self._database.write() as connection:
            mine = sa.update(OWNER).where(OWNER.c.epoch == self._epoch).values(calendar_s=calendar_s)
            if connection.execute(mine).rowcount != 1:
                self.replaced = True
                raise DatabaseError("another accounting owner has taken over this database; this one must stop")
            if rows:
                connection.execute(sa.insert(LEDGER), [_values(row) for row in rows])
                _add_spent(connection, rows)
            _write_leases(connection, leases)


def _values(row: Row) -> dict[str, Any]:
    values = {name: _text(value) for name, value in asdict(row.settlement).items()}
    del values["cost_usd"]
    values["tags"] = json.dumps(row.settlement.tags)
    return values | row.charge._asdict()


def _text(value: Any) -> Any:
    """Text that both databases take: PostgreSQL knows no NUL, neither knows half a surrogate pair."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _upsert(connection: sa.Connection, table: sa.Table) -> Any:
    """INSERT of either dialect; both know ON CONFLICT."""
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)


def _add_spent(connection: sa.Connection, rows: Iterable[Row]) -> None:
    sums: Counter[tuple[str, int]] = Counter()
    for settlement, charge in rows:
        for account in accounts_of(settlement.tenant, settlement.team):
            sums[account, int(charge.charged_s) // QUARTER_S * QUARTER_S] += charge.cost_nusd
    insert = _upsert(connection, SPENT)
    added = insert.on_conflict_do_update(
        index_elements=["account", "start_s"], set_={"nusd": SPENT.c.nusd + insert.excluded.nusd}
    )
    values = [{"account": account, "start_s": start_s, "nusd": nusd} for (account, start_s), nusd in sums.items()]
    connection.execute(added, values)


def _write_leases(connection: sa.Connection, leases: Mapping[Lease, int]) -> None:
    gone = [_key(lease) for lease, amount in leases.items() if not amount]
    if gone:
        keys = ("gateway", "account", "kind", "span_start_s", "span_end_s")
        this = sa.and_(*(LEASES.c[key] == sa.bindparam(f"b_{key}") for key in keys))
        connection.execute(sa.delete(LEASES).where(this), [{f"b_{key}": each[key] for key in keys} for each in gone])
    held = [{**_key(lease), "amount": amount} for lease, amount in leases.items() if amount]
    if held:
        insert = _upsert(connection, LEASES)
        written = insert.on_conflict_do_update(
            index_elements=list(LEASES.primary_key.columns), set_={"amount": insert.excluded.amount}
        )
        connection.execute(written, held)


def _key(lease: Lease) -> dict[str, Any]:
    span = {"span_start_s": lease.span.start_s, "span_end_s": lease.span.end_s}
    return {"gateway": lease.gateway, "account": lease.account, "kind": lease.kind, **span}


def _spent(connection: sa.Connection, account: str, window: Window) -> int:
    here = (SPENT.c.account == account) & (SPENT.c.start_s >= window.start_s) & (SPENT.c.start_s < window.end_s)
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(SPENT.c.nusd), 0)).where(here)).scalar_one())


def _recent(connection: sa.Connection, calendar_s: float) -> dict[tuple[str, Resource], int]:
    """Requests and tokens of the last minute by account."""
    tokens = sa.func.sum(LEDGER.c.prompt_tokens + LEDGER.c.completion_tokens)
    asked = sa.select(LEDGER.c.tenant, LEDGER.c.team, sa.func.count(), tokens)
    recent: Counter[tuple[str, Resource]] = Counter()
    grouped = asked.where(LEDGER.c.charged_s > calendar_s - 60.0).group_by(LEDGER.c.tenant, LEDGER.c.team)
    for tenant, team, requests, used in connection.execute(grouped):
        for account in accounts_of(tenant, team):
            recent[account, "requests"] += requests
            recent[account, "tokens"] += int(used)
    return dict(recent)
