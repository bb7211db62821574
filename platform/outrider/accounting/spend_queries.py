"""Sums over the ledger: the same on SQLite and PostgreSQL, each table's rows disjoint and adding up to its total."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from outrider.accounting.days import days
from outrider.accounting.questions import SpendQuery, zone_called
from outrider.accounting.totals import JOINT, NOTHING, Row, Span, Spend, Totals
from outrider.database.tables import LEDGER

__all__ = ["Filter", "as_totals", "by_model", "joint", "read_spend", "sums", "tags_of", "total", "within"]

WIDTH = len(fields(Totals))

Filter = Mapping[str, str]
"""Column of the ledger (tenant, team, workflow) → the only value that counts."""


def read_spend(connection: Connection, query: SpendQuery) -> Spend:
    """What was spent, dearest rows first, days in their order. Raises InvalidRequest for more days than fit a table."""
    span, only = query.span, query.only.columns
    if query.by == "day":
        rows = [Row(day.name, total(connection, day.span, only)) for day in days(span, zone_called(query.time_zone))]
    elif query.by == "tag":
        rows = _by_tag(connection, span, only)
    else:
        rows = _by_column(connection, query.by, span, only)
    return Spend.of(query.by, span, rows)


def total(connection: Connection, span: Span, only: Filter) -> Totals:
    """The sums without a split."""
    return as_totals(connection.execute(select(*sums()).where(within(span, only))).one())


def by_model(connection: Connection, span: Span, only: Filter) -> tuple[Row, ...]:
    """The sums by model."""
    return tuple(_by_column(connection, "model", span, only))


def _by_column(connection: Connection, name: str, span: Span, only: Filter) -> list[Row]:
    column = LEDGER.c[name]
    query = select(column.label("key"), *sums()).where(within(span, only)).group_by(column)
    return _dearest(Row(found.key, as_totals(found)) for found in connection.execute(query))


def _by_tag(connection: Connection, span: Span, only: Filter) -> list[Row]:
    """Tags of a request have no order: rows that differ in it alone are one."""
    column = LEDGER.c.tags
    query = select(column.label("key"), *sums()).where(within(span, only)).group_by(column)
    found: dict[str | None, Totals] = {}
    for row in connection.execute(query):
        key = joint(tags_of(row.key))
        found[key] = found.get(key, NOTHING) + as_totals(row)
    return _dearest(Row(key, totals) for key, totals in found.items())


def _dearest(rows: Any) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.totals.cost_nusd, row.key is None, row.key or ""))


def within(span: Span, only: Filter) -> ColumnElement[bool]:
    """Rows of a span that pass a filter."""
    return and_(
        LEDGER.c.time_s >= span.since_s,
        LEDGER.c.time_s < span.until_s,
        *(LEDGER.c[name] == value for name, value in only.items()),
    )


def sums() -> tuple[ColumnElement[Any], ...]:
    """The columns of `Totals`, in its order."""
    missed = (LEDGER.c.ttft_missed, LEDGER.c.tpot_missed, LEDGER.c.deadline_missed)
    counted = (LEDGER.c.prompt_tokens, LEDGER.c.cached_tokens, LEDGER.c.completion_tokens, LEDGER.c.cost_nusd)
    return (
        func.count().label("calls"),
        func.count(LEDGER.c.error_code).label("errors"),
        _count(LEDGER.c.cache_hit).label("cache_hits"),
        *(func.coalesce(func.sum(column), 0).label(column.name) for column in counted),
        *(_count(column).label(column.name) for column in missed),
    )


def _count(flag: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((flag, 1), else_=0)), 0)


def as_totals(row: Any) -> Totals:
    """A row that ends in the columns of `sums`; PostgreSQL adds whole numbers up to decimals."""
    return Totals(*map(int, row[-WIDTH:]))


def tags_of(column: str) -> frozenset[str]:
    """What the ledger's column of tags holds."""
    return frozenset(json.loads(column))


def joint(names: Iterable[str]) -> str | None:
    """The key of several names together, whatever their order; None without any."""
    return JOINT.join(sorted(names)) or None
