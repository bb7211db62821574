"""Versions and their audit on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from outrider.database import open_database
from outrider.database.tables import POLICY_AUDIT, POLICY_VERSIONS
from outrider.errors import PolicyConflict
from outrider.policy.sources import Source
from outrider.policy.store import AuditEntry, PolicyStore, StoredPolicy
from support.databases import database_url, postgres

__all__ = ["database_url", "postgres"]

DOCUMENTS = (Source("platform.yaml", "version: 1\n# as typed: ä\n"), Source("team.yaml", "team: a\n"))


@pytest.fixture
def store(database_url: str) -> Iterator[PolicyStore]:
    database = open_database(database_url)
    yield PolicyStore(database)
    database.close()


def add(store: PolicyStore, digest: str = "aa", **changes: object) -> StoredPolicy:
    fields: dict[str, object] = {"action": "apply", "author": "ann", "reason": "because", "now_s": 100.0}
    return store.add(DOCUMENTS, digest, **(fields | changes))  # type: ignore[arg-type]


def test_before_the_first_version_there_is_none(store: PolicyStore) -> None:
    assert (store.current(), store.history(), store.audit(), store.seeded_digest("ann")) == (None, (), (), None)


def test_a_version_comes_back_as_it_was_written(store: PolicyStore) -> None:
    first = add(store, action="seed", detail="everything is new")
    second = add(store, "bb", restores=1, action="rollback", now_s=200.0)
    assert (first.number, first.parent, second.number, second.parent) == (1, None, 2, 1)
    assert store.current() == second
    assert store.version(1) == first
    assert store.version(1).documents == DOCUMENTS
    assert store.history() == (second, first)
    assert store.history(limit=1) == (second,)
    assert (store.seeded_digest("ann"), store.seeded_digest("bob")) == ("aa", None)
    assert store.audit()[-1] == AuditEntry(100.0, "ann", "seed", 1, "aa", "because", "everything is new")


def test_a_change_of_an_older_version_conflicts_and_leaves_no_trace(store: PolicyStore) -> None:
    add(store)
    add(store, "bb", author="bob", expected_parent=1)
    with pytest.raises(PolicyConflict, match="version 2, by bob, not 1"):
        add(store, "cc", expected_parent=1)
    assert [each.number for each in store.history()] == [2, 1]
    assert len(store.audit()) == 2


def test_a_version_that_is_not_kept_is_said_so(store: PolicyStore) -> None:
    with pytest.raises(PolicyConflict, match="no policy version 7"):
        store.version(7)


def test_time_never_runs_backwards_from_version_to_version(store: PolicyStore) -> None:
    add(store, now_s=1_000.0)
    assert add(store, "bb", now_s=10.0).time_s == 1_000.0


def test_refusals_are_recorded_without_a_version(store: PolicyStore) -> None:
    add(store)
    entry = AuditEntry(150.0, "eve", "refused", None, None, "try", "platform.yaml:1:1: …")
    store.record(entry)
    assert store.audit()[0] == entry
    assert [each.number for each in store.history()] == [1]


def test_writers_at_once_get_numbers_of_their_own(store: PolicyStore) -> None:
    add(store)
    threads = [threading.Thread(target=lambda at=at: add(store, f"d{at}")) for at in range(8)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.number for each in store.history()] == list(range(9, 0, -1))
    assert sorted(entry.number or 0 for entry in store.audit()) == list(range(1, 10))


def test_nothing_that_was_written_is_ever_changed(store: PolicyStore) -> None:
    """Append-only, judged by what the database was told: no UPDATE, no DELETE."""
    told: list[str] = []
    engine = store._database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: told.append(arguments[2]))
    add(store)
    add(store, "bb")
    store.record(AuditEntry(1.0, "a", "refused", None, None, "", ""))
    written = [each for each in told if POLICY_AUDIT.name in each or POLICY_VERSIONS.name in each]
    assert any(each.startswith("INSERT") for each in written)
    assert not [each for each in written if each.startswith(("UPDATE", "DELETE"))]
