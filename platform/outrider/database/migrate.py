"""Bring a database to the newest schema, once, whoever else opens it at the same moment."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from outrider.errors import DatabaseError

__all__ = ["migrate"]

FOLDER = Path(__file__).parent / "migrations"

_PG_LOCK = 0x0D71DE2
"""Key of the advisory lock that openers of a PostgreSQL database queue for; SQLite has its write lock."""


def migrate(engine: sa.Engine) -> None:
    """Upgrade to head in one transaction, under a lock that other openers wait for; nothing to do is one read.

    Raises DatabaseError if a newer Outrider has been here. A migration that fails leaves what was there.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        if _revision(connection, script) == script.get_current_head():
            return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PG_LOCK)))
        if _revision(connection, script) != script.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _revision(connection: sa.Connection, script: ScriptDirectory) -> str | None:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in {each.revision for each in script.walk_revisions()}:
        raise DatabaseError(
            f"the database has schema {found!r}, newer than this Outrider's {script.get_current_head()!r}; "
            "run the release that made it, or another database"
        )
    return found
