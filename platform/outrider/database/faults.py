"""What a database's error means to the person who must act on it. Passwords and rows are never repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import exc

from outrider.errors import DatabaseError

__all__ = ["faults"]

_SQLITE = {
    "SQLITE_BUSY": "is locked by another process; stop what holds it, or it will go on by itself",
    "SQLITE_LOCKED": "is locked by another process; stop what holds it, or it will go on by itself",
    "SQLITE_FULL": "has no room: the disk is full; free some, it will go on by itself",
    "SQLITE_IOERR": "cannot be written or read by the system; look at the disk (full, quota, failing)",
    "SQLITE_READONLY": "cannot be written; give this user the right to write the file and its folder",
    "SQLITE_CANTOPEN": "cannot be opened; check that its folder exists and this user may write there",
    "SQLITE_NOTADB": "is not an SQLite database; name another file, or move this one away",
    "SQLITE_CORRUPT": "is damaged; restore a backup, or move it away to begin with an empty one",
    "SQLITE_PERM": "cannot be opened; give this user the right to read and write it",
    "SQLITE_AUTH": "cannot be opened; give this user the right to read and write it",
}

_POSTGRES = {
    "28P01": "refuses the password; correct it in the URL or in PGPASSWORD",
    "28000": "refuses this user; check the user's name and pg_hba.conf",
    "3D000": "does not exist; create it with `createdb`",
    "42501": "does not let this user do that; grant it CREATE on the schema and all on its tables",
    "53100": "has no room: the server's disk is full; free some, it will go on by itself",
    "53200": "is out of memory; look at the server",
    "53300": "takes no more connections; raise max_connections or stop some clients",
    "55P03": "is locked by another transaction; end it, or it will go on by itself",
    "57014": "took too long: another transaction holds what is needed; end it, or it will go on by itself",
    "25006": "is read-only; use the primary server",
    "57P03": "is starting or shutting down; wait, it will go on by itself",
}


@contextmanager
def faults(url: sa.URL) -> Iterator[None]:
    """Turn SQLAlchemy's errors inside into DatabaseError, naming the database and what to do."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise DatabaseError(f"the database {_name(url)} {_meaning(error)}") from error


def _name(url: sa.URL) -> str:
    return repr(url.database) if url.get_backend_name() == "sqlite" else repr(url.render_as_string(hide_password=True))


def _meaning(error: exc.SQLAlchemyError) -> str:
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlite_errorname", None)
    if code is not None:
        known = next((text for name, text in _SQLITE.items() if code.startswith(name)), None)
        return known or f"failed with {code}: {cause}"
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return _POSTGRES.get(state) or f"failed with SQLSTATE {state}: {_first_line(cause)}"
    if isinstance(error, exc.OperationalError | exc.InterfaceError):
        return _unreachable(_first_line(cause))
    return f"failed: {_first_line(cause or error)}"


def _unreachable(text: str) -> str:
    """A connection that was never made has no SQLSTATE in psycopg; libpq's words are all there is."""
    if "password" in text:
        return _POSTGRES["28P01"]
    if "does not exist" in text:
        return _POSTGRES["3D000"] if "database" in text else _POSTGRES["28000"]
    return f"cannot be reached ({text}); check host and port, and that the server runs"


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
