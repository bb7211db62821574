"""What tenants report about their workflows, and the index that finds a tenant's workflow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workflow_outcomes",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("note", sa.Text),
        sa.Column("time_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workflow_outcomes"),
    )
    op.create_index("ix_workflow_outcomes_tenant_workflow", "workflow_outcomes", ["tenant", "workflow", "id"])
    op.drop_index("ix_ledger_workflow", "ledger")
    has_one = sa.text("workflow IS NOT NULL")
    op.create_index(
        "ix_ledger_tenant_workflow_time_s",
        "ledger",
        ["tenant", "workflow", "time_s"],
        sqlite_where=has_one,
        postgresql_where=has_one,
    )


def downgrade() -> None:
    op.drop_index("ix_ledger_tenant_workflow_time_s", "ledger")
    op.create_index("ix_ledger_workflow", "ledger", ["workflow"])
    op.drop_table("workflow_outcomes")
