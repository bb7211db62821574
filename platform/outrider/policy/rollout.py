"""One policy in force at a time: a new one is taken by every gateway or by none.

A change goes through three steps: every gateway *prepares* it (reads it, and may refuse), the store *commits* it, every
gateway *activates* it. A gateway admits requests for a fence after its last answered poll was sent and no longer, so
one out of reach is waited out: when `apply` returns, no request is admitted under an older version anywhere. Between
the first and the last activation two versions may admit: milliseconds when all answer, a fence at most.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from outrider.documents import Problem
from outrider.errors import NotReady, PolicyConflict, PolicyError
from outrider.policy.diff import Change, diff, sentences
from outrider.policy.following import FENCE_S, Documents, Order, Report
from outrider.policy.loading import parse_policies
from outrider.policy.model import Policy
from outrider.policy.sources import Source
from outrider.policy.store import Action, AuditEntry, PolicyStore, StoredPolicy

__all__ = ["HOLD_S", "Checked", "Rollout"]

_log = logging.getLogger(__name__)

HOLD_S = 1.5
"""How long a poll with no news is kept open."""

SERVE_CONFIG = "serve config"
"""The author of versions that come from the files of the Serve config."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a change would do: problems, or the policy with its warnings and what changes for whom."""

    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass(slots=True)
class _Member:
    """A gateway as control knows it. answered_s: when its last poll was answered, monotonic."""

    report: Report
    answered_s: float
    asked: asyncio.Event = field(default_factory=asyncio.Event)


class Rollout:
    """Control's side, on one event loop. The store's calls run on a thread.

    gateways: how many there are to be; after a start, changes wait for that many or for one fence.
    """

    def __init__(
        self,
        store: PolicyStore,
        *,
        gateways: int = 1,
        clock: Callable[[], float] = time.time,
        fence_s: float = FENCE_S,
        hold_s: float = HOLD_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._fence_s = fence_s
        self._hold_s = hold_s
        self._gateways = gateways
        self._began_s = time.monotonic()
        self._members: dict[str, _Member] = {}
        self._heard = asyncio.Condition()
        self._changing = asyncio.Lock()
        self._current: StoredPolicy | None = None
        self._policy: Policy | None = None
        self._candidate: Documents | None = None
        self._committing: asyncio.Future[StoredPolicy] | None = None
        self._attempt = self._committed = 0
        """The attempt that is being prepared, and the one that became the current version."""

    @property
    def policy(self) -> Policy:
        """The policy in force. Raises NotReady before the first."""
        if self._policy is None:
            raise NotReady("no policy is in force yet")
        return self._policy

    @property
    def current(self) -> StoredPolicy:
        """Its version. Raises NotReady before the first."""
        if self._current is None:
            raise NotReady("no policy is in force yet")
        return self._current

    async def start(self, documents: Documents, reason: str = "the files of the Serve config") -> None:
        """Load the version in force, after taking the config's files as a new one where they changed since last time.

        Raises PolicyError where the files do not load and no version is kept; else the last good one stays.
        """
        stored = await asyncio.to_thread(self._store.current)
        if stored is not None:
            self._current, self._policy = stored, _compiled(stored.documents)
        checked = self.check(documents, judge_days=False)
        if checked.policy is None:
            if stored is None:
                raise PolicyError(_listed(checked.problems))
            await self._refuse(SERVE_CONFIG, reason, _listed(checked.problems))
            return
        if stored is None or await self._changed(checked.policy.version, SERVE_CONFIG, reason):
            await self._change(documents, checked, "seed", SERVE_CONFIG, reason)

    async def seed(self, documents: Documents, *, author: str, reason: str) -> None:
        """Apply a configuration's documents, where they changed since it was last taken. Raises as `apply`.

        author: names the configuration; each is compared with itself alone, so that two do not take turns for ever.
        """
        async with self._changing:
            checked = await self._accepted(documents, author, reason, judge_days=False)
            assert checked.policy is not None
            if await self._changed(checked.policy.version, author, reason):
                await self._roll(documents, checked, "seed", author, reason, None)

    async def _changed(self, digest: str, author: str, reason: str) -> bool:
        """Whether a configuration says what is not in force and what it did not say before.

        That it says what is in force is recorded: a later change by an operator then outlives the next start.
        """
        if await asyncio.to_thread(self._store.seeded_digest, author) == digest:
            return False
        if digest != self.current.digest:
            return True
        entry = AuditEntry(self._clock(), author, "seed", self.current.number, digest, reason, "in force already")
        await asyncio.to_thread(self._store.record, entry)
        return False

    def check(self, documents: Documents, *, judge_days: bool = True) -> Checked:
        """What these documents would do; changes nothing."""
        running = self._policy
        known: Collection[str] = () if running is None else {*running.keys, *running.operators}
        now_s = self._clock() if judge_days else None
        report = parse_policies(documents[0], documents[1:], now_s=now_s, known_keys=known)
        if report.policy is None:
            return Checked(None, report.problems)
        changes = () if running is None else diff(running, report.policy)
        return Checked(report.policy, (), report.warnings, changes)

    async def apply(
        self, documents: Documents, *, author: str, reason: str, expected_parent: int | None = None
    ) -> tuple[StoredPolicy, Checked]:
        """Put documents in force everywhere, or raise PolicyError, PolicyConflict, DatabaseError and change nothing."""
        async with self._changing:
            checked = await self._accepted(documents, author, reason)
            return await self._roll(documents, checked, "apply", author, reason, expected_parent), checked

    async def rollback(self, number: int | None, *, author: str, reason: str) -> tuple[StoredPolicy, Checked]:
        """Bring an earlier version back as a new one; None is the one before the present. Raises as `apply`."""
        async with self._changing:
            wanted = self.current.number - 1 if number is None else number
            if wanted < 1:
                raise PolicyConflict("there is no version before this one")
            old = await asyncio.to_thread(self._store.version, wanted)
            stale = f"version {wanted} no longer loads:\n"
            checked = await self._accepted(old.documents, author, reason, judge_days=False, words=stale)
            stored = await self._roll(old.documents, checked, "rollback", author, reason, None, restores=wanted)
            return stored, checked

    async def poll(self, gateway: str, report: Report) -> Order:
        """A gateway's open call: an order at once when there is one for it, `wait` after `HOLD_S` when not."""
        member = self._members.get(gateway)
        if member is None:
            member = self._members[gateway] = _Member(report, time.monotonic())
        member.report = report
        async with self._heard:
            self._heard.notify_all()
        order = self._order(report)
        if order.kind == "wait":
            member.asked.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(member.asked.wait(), self._hold_s)
            order = self._order(report)
        member.answered_s = time.monotonic()
        return order

    def _order(self, report: Report) -> Order:
        current, candidate = self._current, self._candidate
        if current is not None and report.active != current.number:
            return Order("activate", current.number, self._committed, current.documents)
        if candidate is not None and self._attempt not in (report.prepared, report.refused):
            return Order("prepare", 0, self._attempt, candidate)
        return Order("wait")

    async def _roll(
        self,
        documents: Documents,
        checked: Checked,
        action: Action,
        author: str,
        reason: str,
        expected_parent: int | None,
        restores: int | None = None,
    ) -> StoredPolicy:
        if expected_parent is not None and expected_parent != self.current.number:
            raise PolicyConflict(
                f"the policy in force is version {self.current.number}, not {expected_parent} from which this change "
                "was made; look at `outrider policy history` and apply again"
            )
        number = self.current.number + 1
        await self._assemble()
        attempt = secrets.randbits(63)
        self._candidate, self._attempt = documents, attempt
        try:
            self._wake()
            await self._until(lambda report: attempt in (report.prepared, report.refused))
            refusals = [
                f"gateway {name}: {member.report.refusal}"
                for name, member in self._alive().items()
                if member.report.refused == attempt
            ]
        finally:
            self._candidate = None
        if refusals:
            await self._refuse(author, reason, "\n".join(refusals))
            raise PolicyError("refused, nothing changed:\n" + "\n".join(refusals))
        stored = await self._change(documents, checked, action, author, reason, number - 1, restores)
        await self._until(lambda report: report.active == number)
        return stored

    async def _change(
        self,
        documents: Documents,
        checked: Checked,
        action: Action,
        author: str,
        reason: str,
        expected_parent: int | None = None,
        restores: int | None = None,
    ) -> StoredPolicy:
        """Commit, then tell everybody. Whoever asked may be gone by then: what is in the store is in force."""
        assert checked.policy is not None
        policy = checked.policy

        def add() -> StoredPolicy:
            return self._store.add(
                documents,
                policy.version,
                action=action,
                author=author,
                reason=reason,
                now_s=self._clock(),
                detail="\n".join(sentences(checked.changes)),
                expected_parent=expected_parent,
                restores=restores,
            )

        async def commit() -> StoredPolicy:
            stored = await asyncio.to_thread(add)
            self._current, self._policy, self._committed = stored, policy, attempt
            _log.info("policy version %d (%s) in force: %s by %s", stored.number, stored.digest, action, author)
            self._wake()
            return stored

        attempt = self._attempt
        self._committing = asyncio.ensure_future(commit())
        return await asyncio.shield(self._committing)

    async def _accepted(
        self, documents: Documents, author: str, reason: str, *, judge_days: bool = True, words: str = ""
    ) -> Checked:
        """What has a policy. Raises PolicyError, after `words`, and puts the refusal on record."""
        checked = self.check(documents, judge_days=judge_days)
        if checked.policy is None:
            await self._refuse(author, reason, _listed(checked.problems))
            raise PolicyError(words + _listed(checked.problems))
        return checked

    async def _refuse(self, actor: str, reason: str, detail: str) -> None:
        entry = AuditEntry(self._clock(), actor, "refused", None, None, reason, detail)
        await asyncio.to_thread(self._store.record, entry)

    def _alive(self) -> dict[str, _Member]:
        """Gateways that may still admit requests; the others are forgotten."""
        horizon_s = time.monotonic() - self._fence_s
        self._members = {name: each for name, each in self._members.items() if each.answered_s > horizon_s}
        return self._members

    async def _assemble(self) -> None:
        """After a start: wait for the gateways that may live, or until those unheard of must have stopped admitting."""
        while len(self._alive()) < self._gateways and (left_s := self._began_s + self._fence_s - time.monotonic()) > 0:
            await self._listen(left_s)

    async def _until(self, done: Callable[[Report], bool]) -> None:
        """Wait until every gateway that lives says so; one that lapses no longer counts."""
        while not all(done(member.report) for member in self._alive().values()):
            await self._listen(self._fence_s / 10)

    async def _listen(self, limit_s: float) -> None:
        async with self._heard:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), limit_s)

    def _wake(self) -> None:
        for member in self._members.values():
            member.asked.set()


def _compiled(documents: Sequence[Source]) -> Policy:
    report = parse_policies(documents[0], documents[1:])
    if report.policy is None:
        raise PolicyError("the policy in force no longer loads:\n" + _listed(report.problems))
    return report.policy


def _listed(problems: Sequence[Problem]) -> str:
    return "\n".join(map(str, problems))
