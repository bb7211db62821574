"""What operators may do to the policy in force, as values that cross process borders."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from outrider.documents import Problem
from outrider.policy.diff import Change, sentences
from outrider.policy.following import Documents
from outrider.policy.rollout import Checked, Rollout
from outrider.policy.store import AuditEntry, PolicyStore, StoredPolicy

__all__ = ["Applied", "History", "PolicyControl", "Proposal", "RolloutControl"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What documents would do if they were applied: problems, or warnings and what changes for whom."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    changes: tuple[Change, ...]
    sentences: tuple[str, ...]

    @classmethod
    def of(cls, checked: Checked) -> Proposal:
        return cls(checked.problems, checked.warnings, checked.changes, tuple(sentences(checked.changes)))


@dataclass(frozen=True, slots=True)
class Applied:
    """A version that is in force everywhere, without its documents, and what it changed."""

    version: StoredPolicy
    proposal: Proposal


@dataclass(frozen=True, slots=True)
class History:
    """Versions without their documents and the audit, newest first."""

    versions: tuple[StoredPolicy, ...]
    audit: tuple[AuditEntry, ...]


class PolicyControl(Protocol):
    """Control, as an operator's request reaches it. Raises PolicyError, PolicyConflict, DatabaseError, NotReady."""

    async def current(self) -> StoredPolicy: ...

    async def history(self, limit: int) -> History: ...

    async def check(self, documents: Documents) -> Proposal: ...

    async def apply(
        self, documents: Documents, *, author: str, reason: str, expected_version: int | None = None
    ) -> Applied: ...

    async def rollback(self, number: int | None, *, author: str, reason: str) -> Applied: ...


class RolloutControl:
    """`PolicyControl` in the process that has the rollout and its store."""

    def __init__(self, rollout: Rollout, store: PolicyStore) -> None:
        self._rollout = rollout
        self._store = store

    async def current(self) -> StoredPolicy:
        return self._rollout.current

    async def history(self, limit: int) -> History:
        versions, audit = await asyncio.gather(
            asyncio.to_thread(self._store.history, limit), asyncio.to_thread(self._store.audit, limit)
        )
        return History(tuple(replace(each, documents=()) for each in versions), audit)

    async def check(self, documents: Documents) -> Proposal:
        return Proposal.of(self._rollout.check(documents))

    async def apply(
        self, documents: Documents, *, author: str, reason: str, expected_version: int | None = None
    ) -> Applied:
        stored, checked = await self._rollout.apply(
            documents, author=author, reason=reason, expected_parent=expected_version
        )
        return Applied(replace(stored, documents=()), Proposal.of(checked))

    async def rollback(self, number: int | None, *, author: str, reason: str) -> Applied:
        stored, checked = await self._rollout.rollback(number, author=author, reason=reason)
        return Applied(replace(stored, documents=()), Proposal.of(checked))
