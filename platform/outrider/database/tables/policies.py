"""Every policy that was ever in force, and everything anybody tried to do to it."""

from __future__ import annotations

import sqlalchemy as sa

from outrider.database.tables.base import METADATA

__all__ = ["POLICY_AUDIT", "POLICY_VERSIONS"]

POLICY_VERSIONS = sa.Table(
    "policy_versions",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("time_s", sa.Double, nullable=False),
    sa.Column("parent", sa.Integer),
    sa.Column("restores", sa.Integer),
    sa.Column("documents", sa.Text, nullable=False),
)
"""One row per version, numbered from 1; the largest number is in force. digest: of what the documents say.

action: `seed` (the file of the Serve config), `apply` or `rollback`; restores: the number that a rollback brought back.
time_s: seconds of the epoch, never before the parent's. documents: JSON list of [file, text as typed].
"""

POLICY_AUDIT = sa.Table(
    "policy_audit",
    METADATA,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("time_s", sa.Double, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("digest", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)
"""Append-only: nothing here updates or deletes a row. action: that of a version, or `refused`; detail: what changed in
consequences, or why it was refused."""
