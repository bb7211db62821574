"""The ledger, what each account spent, leases and the owner's row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column("decision_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("time_s", sa.Double, nullable=False),
        sa.Column("charged_s", sa.Double, nullable=False),
        sa.Column("wall_s", sa.Double, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("team", sa.Text),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("policy_version", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("limited_by", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nusd", sa.BigInteger, nullable=False),
        sa.Column("forgiven_nusd", sa.BigInteger, nullable=False),
        sa.Column("cache_hit", sa.Boolean, nullable=False),
        sa.Column("workflow", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("ttft_s", sa.Double),
        sa.Column("tpot_s", sa.Double),
        sa.Column("ttft_missed", sa.Boolean, nullable=False),
        sa.Column("tpot_missed", sa.Boolean, nullable=False),
        sa.Column("deadline_missed", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("decision_id", name="pk_ledger"),
    )
    op.create_index("ix_ledger_tenant_time_s", "ledger", ["tenant", "time_s"])
    op.create_index("ix_ledger_team_time_s", "ledger", ["team", "time_s"])
    op.create_index("ix_ledger_workflow", "ledger", ["workflow"])
    op.create_index("ix_ledger_time_s", "ledger", ["time_s"])
    op.create_index("ix_ledger_charged_s", "ledger", ["charged_s"])
    op.create_table(
        "spent",
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("start_s", sa.BigInteger, nullable=False),
        sa.Column("nusd", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account", "start_s", name="pk_spent"),
    )
    op.create_table(
        "leases",
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("span_start_s", sa.BigInteger, nullable=False),
        sa.Column("span_end_s", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("gateway", "account", "kind", "span_start_s", "span_end_s", name="pk_leases"),
    )
    op.create_table(
        "accounting_owner",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("calendar_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounting_owner"),
    )
    op.execute("INSERT INTO accounting_owner (id, epoch, calendar_s) VALUES (1, 0, 0)")


def downgrade() -> None:
    for table in ("accounting_owner", "leases", "spent", "ledger"):
        op.drop_table(table)
