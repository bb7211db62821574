"""What tenants report about their workflows. Rows are only added; of a workflow the one with the largest id counts."""

from __future__ import annotations

import sqlalchemy as sa

from outrider.database.tables.base import METADATA

__all__ = ["WORKFLOW_OUTCOMES"]

WORKFLOW_OUTCOMES = sa.Table(
    "workflow_outcomes",
    METADATA,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("workflow", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("note", sa.Text),
    sa.Column("time_s", sa.Double, nullable=False),
    sa.Index("ix_workflow_outcomes_tenant_workflow", "tenant", "workflow", "id"),
)
