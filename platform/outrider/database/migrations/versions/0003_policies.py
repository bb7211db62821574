"""Policy versions and their audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policy_versions",
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("time_s", sa.Double, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("restores", sa.Integer),
        sa.Column("documents", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_policy_versions"),
    )
    op.create_table(
        "policy_audit",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("time_s", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("number", sa.Integer),
        sa.Column("digest", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policy_audit"),
    )


def downgrade() -> None:
    op.drop_table("policy_audit")
    op.drop_table("policy_versions")
