"""Open the database: engine, settings of each connection, schema."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from outrider.database.faults import faults
from outrider.database.migrate import migrate
from outrider.errors import DatabaseError, MissingExtra

__all__ = ["DEFAULT_URL", "Database", "open_database"]

DEFAULT_URL = "sqlite:///.outrider/outrider.db"

_BUSY_S = 5.0
"""How long a statement waits for another's lock, on both databases, before it is an error."""

_READ = "outrider_read"


@dataclass(frozen=True, slots=True)
class Database:
    """An open database with today's schema. Calls block: make them on a thread of your own, not on an event loop."""

    engine: sa.Engine

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction, durable when the block ends without an exception. Raises DatabaseError.

        On SQLite it holds the write lock from its beginning, so what it reads cannot change before it writes.
        """
        with faults(self.engine.url), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view that waits for no writer. Raises DatabaseError."""
        with faults(self.engine.url), self.engine.connect() as connection:
            options: dict[str, Any] = {_READ: True}
            if self.engine.dialect.name == "postgresql":
                options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            yield connection.execution_options(**options)

    def close(self) -> None:
        """Give every connection back; SQLite folds its write-ahead log into the file."""
        self.engine.dispose()


def open_database(url: str = DEFAULT_URL) -> Database:
    """Open (and for SQLite create) the database, bring it to the newest schema.

    url: `sqlite:///FILE` (relative to the working directory; its folder is made for this user alone), or
    `postgresql+psycopg://USER@HOST/NAME` (`postgresql://` means the same). Raises DatabaseError, MissingExtra.

    SQLite runs in WAL mode with `synchronous=FULL`: a commit is on the disk when it returns, through a power cut.
    PostgreSQL is left at its own `synchronous_commit`; `on`, its default, says the same.
    """
    parsed = _parse(url)
    with faults(parsed):
        engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgres(parsed)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
    return Database(engine)


def _parse(url: str) -> sa.URL:
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise DatabaseError(f"database: this is no URL; use {DEFAULT_URL} or postgresql+psycopg://…") from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise DatabaseError(
            f"database: {parsed.drivername!r} is not supported; use {DEFAULT_URL} or postgresql+psycopg://…"
        )
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise DatabaseError(f"database: a database in memory forgets the ledger; name a file, such as {DEFAULT_URL}")
    return parsed


def _sqlite(url: sa.URL) -> sa.Engine:
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, mode=stat.S_IRWXU, exist_ok=True)
    except OSError as error:
        raise DatabaseError(f"the folder {str(folder)!r} cannot be made: {error.strerror}; name another") from error
    # pysqlite begins transactions late and by itself; with isolation_level None our own BEGIN is the only one.
    engine = sa.create_engine(url, poolclass=QueuePool, connect_args={"isolation_level": None, "timeout": _BUSY_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    _turn_to_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _turn_to_wal(connection: sqlite3.Connection) -> None:
    """For this one change SQLite itself does not wait for others who open the file at the same moment."""
    give_up_s = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > give_up_s:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READ) else "BEGIN IMMEDIATE")


def _postgres(url: sa.URL) -> sa.Engine:
    milliseconds = int(_BUSY_S * 1000)
    arguments = {
        "application_name": "outrider",
        "connect_timeout": 5,
        "options": f"-c lock_timeout={milliseconds} -c idle_in_transaction_session_timeout=60000",
    }
    try:
        return sa.create_engine(url, pool_pre_ping=True, connect_args=arguments)
    except ModuleNotFoundError as error:
        raise MissingExtra("PostgreSQL needs its driver: pip install 'outrider[postgres]'") from error
