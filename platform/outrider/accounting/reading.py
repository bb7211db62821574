"""The ledger for those who may only read it: nothing is created, migrated or written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, create_engine, inspect, make_url
from sqlalchemy.exc import ArgumentError

from outrider.database import DEFAULT_URL
from outrider.database.faults import faults
from outrider.database.tables import LEDGER, WORKFLOW_OUTCOMES
from outrider.errors import DatabaseError, MissingExtra

__all__ = ["reading"]

STARTED = "a platform that serves makes one; name its database with --database, or ask the platform with --url"


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """One consistent view of a ledger. Raises DatabaseError, saying what to do, where there is none to read."""
    try:
        asked = make_url(url)
        engine = create_engine(_read_only(asked))
    except ArgumentError:
        raise DatabaseError(f"database: this is no URL; use {DEFAULT_URL} or postgresql+psycopg://…") from None
    except ModuleNotFoundError as error:
        raise MissingExtra("PostgreSQL needs its driver: pip install 'outrider[postgres]'") from error
    try:
        with faults(asked), engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            if {LEDGER.name, WORKFLOW_OUTCOMES.name} - set(inspect(connection).get_table_names()):
                raise DatabaseError(f"the database {asked.database!r} holds no ledger of this version; {STARTED}")
            yield connection
    finally:
        engine.dispose()


def _read_only(asked: URL) -> URL:
    """The same database, for SQLite in its read-only mode. Raises DatabaseError where there is no such file."""
    if asked.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return asked.set(drivername="postgresql+psycopg")
    if asked.drivername != "sqlite":
        raise DatabaseError(
            f"database: {asked.drivername!r} is not supported; use {DEFAULT_URL} or postgresql+psycopg://…"
        )
    file = Path(asked.database or "")
    if not file.is_file():
        raise DatabaseError(f"the database {str(file)!r} does not exist; {STARTED}")
    return URL.create("sqlite", database=f"file:{quote(str(file))}", query={"mode": "ro", "uri": "true"})
