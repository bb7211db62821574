"""The control deployment: the one process that writes the database. It keeps the ledger and the policy's versions.

Gateways come to it, never it to them: each keeps a `poll` and an `attend` open. It is asked per lease and per change of
policy, not per request; settlements of many requests travel together.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from outrider.errors import OutriderError
from outrider_deployments.replica_logs import join_serve_logs

if TYPE_CHECKING:
    from outrider.accounting import (
        OutcomeReport,
        Span,
        Spend,
        SpendQuery,
        Usage,
        Workflow,
        WorkflowQuery,
        WorkflowSpend,
    )
    from outrider.accounting.messages import Exchange, Exchanged, Settle, Settled
    from outrider.policy import Tenant
    from outrider.policy.control import Applied, History, Proposal
    from outrider.policy.following import Documents, Order, Report
    from outrider.policy.store import StoredPolicy
    from outrider_deployments.config import AppConfig
    from outrider_deployments.preflight import Preflight

__all__ = ["Control"]

logger = logging.getLogger(__name__)


class Control:
    """One replica. Its methods are what `ControlClient` calls over a Serve handle; they raise typed errors."""

    async def __init__(self, config: AppConfig, found: Preflight) -> None:  # type: ignore[misc]
        from outrider.accounting import AccountingOwner, LedgerSpending
        from outrider.database import open_database
        from outrider.policy.control import RolloutControl
        from outrider.policy.rollout import Rollout
        from outrider.policy.store import PolicyStore

        join_serve_logs()
        self._database = await asyncio.to_thread(open_database, found.database)
        store = PolicyStore(self._database)
        self._rollout = Rollout(store, gateways=config.gateway.replicas)
        await self._rollout.start(found.documents)
        self._policies = RolloutControl(self._rollout, store)
        self._owner = AccountingOwner(self._database, lambda: self._rollout.policy)
        await self._owner.start()
        self._spending = LedgerSpending(self._database, lambda: self._rollout.policy)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's `user_config: {policy: FILE, teams: [FILE, …]}`: those files as the policy, where they changed.

        A policy that is refused leaves the one in force; why is logged, and on the audit unless a file is missing.
        """
        from outrider_deployments.preflight import documents_of

        try:
            documents = documents_of(str(user_config.get("policy", "")), tuple(user_config.get("teams", ())))
            await self._rollout.seed(documents, author="serve user_config", reason="user_config of control")
        except OutriderError as error:
            logger.error("user_config changed nothing: %s", error.message)

    def check_health(self) -> None:
        """Serve's health check: raises once nobody keeps the ledger, and Serve starts another replica."""
        if not self._owner.running:
            raise RuntimeError("the accounting owner stopped")

    async def __del__(self) -> None:
        """Serve calls this when it stops the replica."""
        if hasattr(self, "_owner"):
            await self._owner.close()
        if hasattr(self, "_database"):
            await asyncio.to_thread(self._database.close)

    # -- accounting

    async def exchange(self, exchange: Exchange) -> Exchanged:
        return await self._owner.exchange(exchange)

    async def settle(self, settle: Settle) -> Settled:
        return await self._owner.settle(settle)

    async def attend(self, gateway: str) -> tuple[str, ...]:
        return await self._owner.attend(gateway)

    # -- the policy

    async def poll(self, gateway: str, report: Report) -> Order:
        return await self._rollout.poll(gateway, report)

    async def current(self) -> StoredPolicy:
        return await self._policies.current()

    async def history(self, limit: int) -> History:
        return await self._policies.history(limit)

    async def check(self, documents: Documents) -> Proposal:
        return await self._policies.check(documents)

    async def apply(self, documents: Documents, author: str, reason: str, expected_version: int | None) -> Applied:
        applied = await self._policies.apply(documents, author=author, reason=reason, expected_version=expected_version)
        self._owner.policy_changed()
        return applied

    async def rollback(self, number: int | None, author: str, reason: str) -> Applied:
        applied = await self._policies.rollback(number, author=author, reason=reason)
        self._owner.policy_changed()
        return applied

    # -- what was spent

    async def usage(self, tenant: Tenant, span: Span | None, by_day: bool) -> Usage:
        return await self._spending.usage(tenant, span, by_day=by_day)

    async def workflow(self, tenant: str, workflow: str) -> Workflow:
        return await self._spending.workflow(tenant, workflow)

    async def report_outcome(self, tenant: str, workflow: str, report: OutcomeReport) -> Workflow:
        return await self._spending.report_outcome(tenant, workflow, report)

    async def spend(self, query: SpendQuery) -> Spend:
        return await self._spending.spend(query)

    async def workflows(self, query: WorkflowQuery) -> WorkflowSpend:
        return await self._spending.workflows(query)
