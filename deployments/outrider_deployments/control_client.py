"""Control as a gateway reaches it: over a Serve handle, with failures as typed errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outrider.errors import AccountingUnavailable, NotReady, OutriderError
from outrider_deployments.causes import raised_there

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

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

__all__ = ["ControlClient"]

AWAY = "control does not answer; it is being restarted if it died"
RETRY_S = 2.0


class ControlClient:
    """`OwnerClient`, `Polled`, `PolicyControl` and `Spending` in one.

    What control itself raises is raised here; whatever Ray or Serve raise while it comes and goes is NotReady, or
    AccountingUnavailable for what accounting asks.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def exchange(self, exchange: Exchange) -> Exchanged:
        answer: Exchanged = await self._ask(AccountingUnavailable, "exchange", exchange)
        return answer

    async def settle(self, settle: Settle) -> Settled:
        answer: Settled = await self._ask(AccountingUnavailable, "settle", settle)
        return answer

    async def attend(self, gateway: str) -> tuple[str, ...]:
        answer: tuple[str, ...] = await self._ask(AccountingUnavailable, "attend", gateway)
        return answer

    async def poll(self, gateway: str, report: Report) -> Order:
        answer: Order = await self._ask(NotReady, "poll", gateway, report)
        return answer

    async def current(self) -> StoredPolicy:
        answer: StoredPolicy = await self._ask(NotReady, "current")
        return answer

    async def history(self, limit: int) -> History:
        answer: History = await self._ask(NotReady, "history", limit)
        return answer

    async def check(self, documents: Documents) -> Proposal:
        answer: Proposal = await self._ask(NotReady, "check", documents)
        return answer

    async def apply(
        self, documents: Documents, *, author: str, reason: str, expected_version: int | None = None
    ) -> Applied:
        answer: Applied = await self._ask(NotReady, "apply", documents, author, reason, expected_version)
        return answer

    async def rollback(self, number: int | None, *, author: str, reason: str) -> Applied:
        answer: Applied = await self._ask(NotReady, "rollback", number, author, reason)
        return answer

    async def usage(self, tenant: Tenant, span: Span | None = None, *, by_day: bool = False) -> Usage:
        answer: Usage = await self._ask(NotReady, "usage", tenant, span, by_day)
        return answer

    async def workflow(self, tenant: str, workflow: str) -> Workflow:
        answer: Workflow = await self._ask(NotReady, "workflow", tenant, workflow)
        return answer

    async def report_outcome(self, tenant: str, workflow: str, report: OutcomeReport) -> Workflow:
        answer: Workflow = await self._ask(NotReady, "report_outcome", tenant, workflow, report)
        return answer

    async def spend(self, query: SpendQuery) -> Spend:
        answer: Spend = await self._ask(NotReady, "spend", query)
        return answer

    async def workflows(self, query: WorkflowQuery) -> WorkflowSpend:
        answer: WorkflowSpend = await self._ask(NotReady, "workflows", query)
        return answer

    async def _ask(self, away: type[OutriderError], method: str, *arguments: object) -> Any:
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except OutriderError as error:
            raise raised_there(error) from None
        except Exception as error:
            raise away(AWAY, retry_after_s=RETRY_S) from error
