"""Prices, budgets and rates, reservations, leases to gateways, the durable ledger and what it adds up to."""

from outrider.accounting.leased import LeasedAccountant
from outrider.accounting.ledger_spending import LedgerSpending
from outrider.accounting.messages import OwnerClient
from outrider.accounting.questions import Only, SpendQuery, WorkflowQuery, zone_called
from outrider.accounting.reading import reading
from outrider.accounting.service import AccountingOwner
from outrider.accounting.spend_queries import read_spend
from outrider.accounting.spending import Spending
from outrider.accounting.totals import GroupBy, Row, Span, Spend, Totals
from outrider.accounting.types import (
    Accountant,
    Ask,
    RateLimit,
    RateLimits,
    Reservation,
    Settlement,
    accounts_of,
    team_account,
    tenant_account,
)
from outrider.accounting.unmetered import Unmetered
from outrider.accounting.usage import BudgetState, RateState, Usage, UsageBucket
from outrider.accounting.workflow_queries import read_workflow_spend
from outrider.accounting.workflows import Cohort, OutcomeReport, Share, Workflow, WorkflowSpend

__all__ = [
    "Accountant",
    "AccountingOwner",
    "Ask",
    "BudgetState",
    "Cohort",
    "GroupBy",
    "LeasedAccountant",
    "LedgerSpending",
    "Only",
    "OutcomeReport",
    "OwnerClient",
    "RateLimit",
    "RateLimits",
    "RateState",
    "Reservation",
    "Row",
    "Settlement",
    "Share",
    "Span",
    "Spend",
    "SpendQuery",
    "Spending",
    "Totals",
    "Unmetered",
    "Usage",
    "UsageBucket",
    "Workflow",
    "WorkflowQuery",
    "WorkflowSpend",
    "accounts_of",
    "read_spend",
    "read_workflow_spend",
    "reading",
    "team_account",
    "tenant_account",
    "zone_called",
]
