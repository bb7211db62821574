"""Whatever is done to the policy's store, versions are numbered one after another and nothing written changes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from outrider.database import open_database
from outrider.database.tables import POLICY_VERSIONS
from outrider.errors import PolicyConflict
from outrider.policy.sources import Source
from outrider.policy.store import AuditEntry, PolicyStore, StoredPolicy
from support.broken import assert_caught

SETTINGS = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

authors = st.sampled_from(["ann", "bob", "serve config"])
documents = st.lists(st.builds(Source, st.sampled_from(["a.yaml", "b.yaml"]), st.text(max_size=8)), max_size=2).map(
    tuple
)


class StoreMachine(RuleBasedStateMachine):
    """Two writers on one file, of which one may have looked before the other wrote; the clock may jump."""

    store_class: type[PolicyStore] = PolicyStore

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{Path(self.folder.name)}/outrider.db"
        self.databases = [open_database(self.url), open_database(self.url)]
        self.stores = [self.store_class(each) for each in self.databases]
        self.looked = [0, 0]
        """What each writer saw last."""
        self.written: list[StoredPolicy] = []
        self.entries: list[AuditEntry] = []
        self.now_s = 1000.0

    def teardown(self) -> None:
        for database in self.databases:
            database.close()
        self.folder.cleanup()

    @rule(seconds=st.sampled_from([-3600.0, -1.0, 0.0, 0.5, 60.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(who=st.integers(0, 1))
    def look(self, who: int) -> None:
        current = self.stores[who].current()
        self.looked[who] = 0 if current is None else current.number

    @rule(who=st.integers(0, 1), author=authors, texts=documents, digest=st.sampled_from("abc"), careful=st.booleans())
    def apply(self, who: int, author: str, texts: tuple[Source, ...], digest: str, careful: bool) -> None:
        parent = self.looked[who] if careful else None
        self._add(who, texts, digest, parent, action="apply", author=author)

    @precondition(lambda machine: machine.written)
    @rule(who=st.integers(0, 1), author=authors, data=st.data())
    def rollback(self, who: int, author: str, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.written))
        found = self.stores[who].version(old.number)
        self._add(who, found.documents, found.digest, None, action="rollback", author=author, restores=old.number)

    @rule(who=st.integers(0, 1), author=authors)
    def refuse(self, who: int, author: str) -> None:
        entry = AuditEntry(self.now_s, author, "refused", None, None, "because", "a problem")
        self.stores[who].record(entry)
        self.entries.append(entry)

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        self.databases[who].close()
        self.databases[who] = open_database(self.url)
        self.stores[who] = self.store_class(self.databases[who])

    def _add(self, who: int, texts: Sequence[Source], digest: str, parent: int | None, **fields: Any) -> None:
        stale = parent is not None and parent != len(self.written)
        try:
            stored = self.stores[who].add(
                texts, digest, reason="because", now_s=self.now_s, expected_parent=parent, **fields
            )
        except PolicyConflict:
            assert stale, "a change of the newest version is taken"
            return
        assert not stale, "one writer's change is not lost to another's"
        assert stored.number == len(self.written) + 1, "monotone versions"
        assert not self.written or stored.time_s >= self.written[-1].time_s, "monotone times"
        self.written.append(stored)
        author, action = fields["author"], fields["action"]
        self.entries.append(AuditEntry(stored.time_s, author, action, stored.number, digest, "because", ""))
        self.looked[who] = stored.number

    @invariant()
    def versions_are_kept_as_they_were_written(self) -> None:
        for store in self.stores:
            assert store.history(limit=1000) == tuple(reversed(self.written)), "append-only versions"
            assert store.current() == (self.written[-1] if self.written else None), "the newest is in force"

    @invariant()
    def the_audit_tells_all_of_it(self) -> None:
        for store in self.stores:
            assert store.audit(limit=1000) == tuple(reversed(self.entries)), "append-only audit"


def test_the_store_keeps_its_invariants() -> None:
    run_state_machine_as_test(StoreMachine, settings=SETTINGS)


class KeepsTheLastFew(PolicyStore):
    """Deletes what is old."""

    def add(self, *arguments: Any, **fields: Any) -> StoredPolicy:
        stored = super().add(*arguments, **fields)
        with self._database.write() as connection:
            connection.execute(POLICY_VERSIONS.delete().where(POLICY_VERSIONS.c.number < stored.number - 1))
        return stored


class CorrectsTheReason(PolicyStore):
    """Writes a version's author over the earlier ones."""

    def add(self, *arguments: Any, **fields: Any) -> StoredPolicy:
        stored = super().add(*arguments, **fields)
        with self._database.write() as connection:
            connection.execute(POLICY_VERSIONS.update().values(author=stored.author))
        return stored


class TakesStaleChanges(PolicyStore):
    """Does not look what a change was made from."""

    def add(self, *arguments: Any, **fields: Any) -> StoredPolicy:
        return super().add(*arguments, **(fields | {"expected_parent": None}))


class BelievesTheClock(PolicyStore):
    """Writes what the clock says, though it was set back."""

    def add(self, *arguments: Any, **fields: Any) -> StoredPolicy:
        stored = replace(super().add(*arguments, **fields), time_s=fields["now_s"])
        with self._database.write() as connection:
            row = POLICY_VERSIONS.update().where(POLICY_VERSIONS.c.number == stored.number)
            connection.execute(row.values(time_s=stored.time_s))
        return stored


class RestoresInPlace(PolicyStore):
    """Rolls back by deleting what came after."""

    def add(self, *arguments: Any, **fields: Any) -> StoredPolicy:
        if fields.get("restores") is None:
            return super().add(*arguments, **fields)
        with self._database.write() as connection:
            connection.execute(POLICY_VERSIONS.delete().where(POLICY_VERSIONS.c.number > fields["restores"]))
        return self.version(fields["restores"])


class ForgetsRefusals(PolicyStore):
    """Records only what succeeded."""

    def record(self, entry: AuditEntry) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (KeepsTheLastFew, "append-only versions"),
        (CorrectsTheReason, "append-only versions"),
        (TakesStaleChanges, "is not lost to another's"),
        (BelievesTheClock, "monotone times"),
        (RestoresInPlace, "monotone versions"),
        (ForgetsRefusals, "append-only audit"),
    ],
)
def test_a_broken_store_is_caught(broken: type[PolicyStore], words: str) -> None:
    assert_caught(StoreMachine, SETTINGS, words, examples=200, store_class=broken)
