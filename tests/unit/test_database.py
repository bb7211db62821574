"""Opening a database: its schema, who else opens it, and what is said where it cannot be."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from outrider.database import METADATA, Database, open_database
from outrider.errors import DatabaseError
from support.databases import database_url, postgres
from support.postgres import PostgresServer

__all__ = ["database_url", "postgres"]


def count(database: Database, table: str) -> int:
    with database.read() as connection:
        return connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()


def test_the_migrations_build_the_metadata(database_url: str) -> None:
    database = open_database(database_url)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    database.close()


def test_opening_again_changes_nothing(database_url: str) -> None:
    open_database(database_url).close()
    database = open_database(database_url)
    assert count(database, "accounting_owner") == count(database, "alembic_version") == 1
    database.close()


def test_many_may_open_an_empty_database_at_once(database_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        databases = list(pool.map(open_database, [database_url] * 6))
    assert {count(each, "accounting_owner") for each in databases} == {1}
    for each in databases:
        each.close()


def set_epoch(database: Database, epoch: int, *, then: type[Exception] | None = None) -> None:
    with database.write() as connection:
        connection.execute(sa.text(f"UPDATE accounting_owner SET epoch = {epoch}"))
        if then is not None:
            raise then


def epoch(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.text("SELECT epoch FROM accounting_owner")).scalar_one())


def test_a_transaction_that_fails_leaves_nothing(database_url: str) -> None:
    database = open_database(database_url)
    set_epoch(database, 3)
    with pytest.raises(ZeroDivisionError):
        set_epoch(database, 7, then=ZeroDivisionError)
    assert epoch(database) == 3
    database.close()


def test_what_reads_writes_nothing(database_url: str) -> None:
    """PostgreSQL refuses it, SQLite never commits it."""
    database = open_database(database_url)
    with contextlib.suppress(DatabaseError), database.read() as connection:
        connection.execute(sa.text("UPDATE accounting_owner SET epoch = 7"))
    assert epoch(database) == 0
    database.close()


def test_a_newer_schema_is_refused(database_url: str) -> None:
    database = open_database(database_url)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(DatabaseError, match="'9999', newer than"):
        open_database(database_url)


def test_the_folder_of_sqlite_is_for_this_user_alone(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/a/b/outrider.db").close()
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == stat.S_IRWXU


def test_sqlite_commits_reach_the_disk(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    with database.read() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar_one() == 2
        assert connection.execute(sa.text("PRAGMA foreign_keys")).scalar_one() == 1
    database.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "this is no URL"),
        ("outrider.db", "this is no URL"),
        ("mysql://root:secret@h/x", "'mysql' is not supported"),
        ("sqlite://", "in memory forgets"),
        ("sqlite:///:memory:", "in memory forgets"),
        ("sqlite:////proc/outrider/x.db", "cannot be made"),
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot be reached"),
    ],
)
def test_what_cannot_be_opened_is_said_without_the_password(url: str, words: str) -> None:
    with pytest.raises(DatabaseError, match=words) as caught:
        open_database(url)
    assert "secret" not in caught.value.message


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "outrider.db"
    file.write_text("this is a diary, not a database\n" * 100)
    with pytest.raises(DatabaseError, match="is not an SQLite database"):
        open_database(f"sqlite:///{file}")
    assert file.read_text().startswith("this is a diary")


def test_a_locked_database_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outrider.database.engine._BUSY_S", 0.05)
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    other = sqlite3.connect(tmp_path / "outrider.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError, match="locked by another"), database.write():
        pass
    assert count(database, "ledger") == 0, "a reader waits for no writer"
    other.execute("ROLLBACK")
    with database.write() as connection:
        connection.execute(sa.text("UPDATE accounting_owner SET epoch = 1"))
    other.close()
    database.close()


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/outrider.db")
    with database.engine.connect() as connection:
        pages = connection.execute(sa.text("PRAGMA page_count")).scalar_one()
        connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(DatabaseError, match="disk is full"), database.write() as connection:
        connection.execute(sa.text(f"INSERT INTO spent VALUES ('{'x' * 100_000}', 0, 0)"))
    database.close()


def test_what_postgres_refuses_is_said(postgres: PostgresServer) -> None:
    with pytest.raises(DatabaseError, match=r"does not exist; create it with `createdb`"):
        open_database(postgres.url("nowhere"))
    with pytest.raises(DatabaseError, match="refuses this user"):
        open_database(postgres.url(user="nobody-known"))


def test_a_wrong_password_is_not_repeated(postgres: PostgresServer) -> None:
    rules = postgres.folder / "data/pg_hba.conf"
    before = rules.read_text()
    rules.write_text("local all all scram-sha-256\n")
    postgres.control("reload")
    try:
        with pytest.raises(DatabaseError, match="refuses the password") as caught:
            open_database(postgres.url().replace("outrider@", "outrider:hunter2@"))
        assert "hunter2" not in caught.value.message
    finally:
        rules.write_text(before)
        postgres.control("reload")
