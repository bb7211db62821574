"""Versions of the policy, numbered and kept for ever, and an append-only record of who did what to them and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from outrider.database import Database
from outrider.database.tables import POLICY_AUDIT, POLICY_VERSIONS
from outrider.errors import PolicyConflict
from outrider.policy.sources import Source

__all__ = ["Action", "AuditEntry", "PolicyStore", "StoredPolicy"]

Action = Literal["seed", "apply", "rollback"]

_VERSIONS, _AUDIT = POLICY_VERSIONS.c, POLICY_AUDIT.c


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """One version. See `database/tables/policies.py` for what each field holds."""

    number: int
    digest: str
    action: Action
    author: str
    reason: str
    time_s: float
    parent: int | None
    restores: int | None
    documents: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that was done or refused; `number` and `digest` where it is about a version."""

    time_s: float
    actor: str
    action: str
    number: int | None
    digest: str | None
    reason: str
    detail: str


class PolicyStore:
    """Reads and writes block, and raise DatabaseError: call them on a thread of your own. Safe for several writers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self) -> StoredPolicy | None:
        """The version in force; None before the first."""
        newest = sa.select(POLICY_VERSIONS).order_by(_VERSIONS.number.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(newest).mappings().first()
        return None if row is None else _stored(row)

    def version(self, number: int) -> StoredPolicy:
        """Raises PolicyConflict where no such version is kept."""
        with self._database.read() as connection:
            found = connection.execute(sa.select(POLICY_VERSIONS).where(_VERSIONS.number == number))
            row = found.mappings().first()
        if row is None:
            raise PolicyConflict(f"there is no policy version {number}; `outrider policy history` lists them")
        return _stored(row)

    def history(self, limit: int = 50) -> tuple[StoredPolicy, ...]:
        """The newest versions, newest first."""
        newest = sa.select(POLICY_VERSIONS).order_by(_VERSIONS.number.desc()).limit(limit)
        with self._database.read() as connection:
            return tuple(map(_stored, connection.execute(newest).mappings()))

    def audit(self, limit: int = 200) -> tuple[AuditEntry, ...]:
        """The newest entries, newest first."""
        columns = [column for column in POLICY_AUDIT.c if column.name != "id"]
        newest = sa.select(*columns).order_by(_AUDIT.id.desc()).limit(limit)
        with self._database.read() as connection:
            return tuple(AuditEntry(**row) for row in connection.execute(newest).mappings())

    def seeded_digest(self, author: str) -> str | None:
        """What the files of a configuration, `author`, said when they were last taken; None if they never were."""
        seeds = sa.select(_AUDIT.digest).where(_AUDIT.action == "seed", _AUDIT.actor == author)
        newest = seeds.order_by(_AUDIT.id.desc())
        with self._database.read() as connection:
            return connection.execute(newest.limit(1)).scalar()

    def add(
        self,
        documents: Sequence[Source],
        digest: str,
        *,
        action: Action,
        author: str,
        reason: str,
        now_s: float,
        detail: str = "",
        expected_parent: int | None = None,
        restores: int | None = None,
    ) -> StoredPolicy:
        """Write the next version and its audit entry in one transaction; durable when this returns.

        expected_parent: the number the change was made from. Raises PolicyConflict where another is in force by now.
        """
        with self._database.write() as connection:
            newest = sa.select(_VERSIONS.number, _VERSIONS.time_s, _VERSIONS.author).order_by(_VERSIONS.number.desc())
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("LOCK TABLE policy_versions IN SHARE ROW EXCLUSIVE MODE"))
            parent = connection.execute(newest.limit(1)).first()
            number = 0 if parent is None else parent.number
            if expected_parent is not None and expected_parent != number:
                by = "" if parent is None else f", by {parent.author}"
                raise PolicyConflict(
                    f"the policy in force is version {number}{by}, not {expected_parent} from which this change was "
                    "made; look at `outrider policy history` and apply again"
                )
            time_s = now_s if parent is None else max(now_s, parent.time_s)
            stored = StoredPolicy(
                number=number + 1,
                digest=digest,
                action=action,
                author=author,
                reason=reason,
                time_s=time_s,
                parent=number or None,
                restores=restores,
                documents=tuple(documents),
            )
            connection.execute(POLICY_VERSIONS.insert().values(_row(stored)))
            entry = AuditEntry(time_s, author, action, stored.number, digest, reason, detail)
            connection.execute(POLICY_AUDIT.insert().values(_fields(entry)))
        return stored

    def record(self, entry: AuditEntry) -> None:
        """Append something that changed no version, such as a refusal."""
        with self._database.write() as connection:
            connection.execute(POLICY_AUDIT.insert().values(_fields(entry)))


def _stored(row: Any) -> StoredPolicy:
    documents = tuple(Source(file, text) for file, text in json.loads(row["documents"]))
    return StoredPolicy(**{**row, "documents": documents})


def _row(stored: StoredPolicy) -> dict[str, object]:
    documents = json.dumps([[each.file, each.text] for each in stored.documents])
    return {**_fields(stored), "documents": documents}


def _fields(value: StoredPolicy | AuditEntry) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}
