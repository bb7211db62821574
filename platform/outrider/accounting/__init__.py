"""Prices, budgets and rates, reservations, leases to gateways, the durable ledger and what it adds up to."""

from outrider.accounting.questions import Only, SpendQuery, WorkflowQuery, zone_called
from outrider.accounting.spending import Spending
from outrider.accounting.totals import GroupBy, Row, Span, Spend, Totals
from outrider.accounting.usage import BudgetState, RateState, Usage, UsageBucket
from outrider.accounting.workflows import Cohort, OutcomeReport, Share, Workflow, WorkflowSpend

__all__ = [
    "BudgetState",
    "Cohort",
    "GroupBy",
    "Only",
    "OutcomeReport",
    "RateState",
    "Row",
    "Share",
    "Span",
    "Spend",
    "SpendQuery",
    "Spending",
    "Totals",
    "Usage",
    "UsageBucket",
    "Workflow",
    "WorkflowQuery",
    "WorkflowSpend",
    "zone_called",
]
