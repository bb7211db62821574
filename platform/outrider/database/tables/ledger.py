"""Tables of the accounting owner, their only writer. Money in nano-dollars (`_nusd`), times in seconds of the epoch.

    ledger            one row per request that was answered, for ever
    spent             what each account spent in each quarter of an hour: sums of ledger rows, written with them
    leases            what each living gateway holds of an account and has not spent
    accounting_owner  one row: which owner may write, and how far its calendar has come

Every time zone's offset is a multiple of a quarter of an hour, so every calendar window is a union of quarters.
"""

from __future__ import annotations

import sqlalchemy as sa

from outrider.database.tables.base import METADATA

__all__ = ["LEASES", "LEDGER", "OWNER", "SPENT"]

LEDGER = sa.Table(
    "ledger",
    METADATA,
    sa.Column("decision_id", sa.Text, primary_key=True),
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
    sa.Index("ix_ledger_tenant_time_s", "tenant", "time_s"),
    sa.Index("ix_ledger_team_time_s", "team", "time_s"),
    sa.Index(
        "ix_ledger_tenant_workflow_time_s",
        "tenant",
        "workflow",
        "time_s",
        sqlite_where=sa.text("workflow IS NOT NULL"),
        postgresql_where=sa.text("workflow IS NOT NULL"),
    ),
    sa.Index("ix_ledger_time_s", "time_s"),
    sa.Index("ix_ledger_charged_s", "charged_s"),
)
"""`cost_nusd` is what was charged; `forgiven_nusd` what was delivered beyond a budget and is not (see owner.py).

`charged_s` is the moment the money was reserved, by the owner's calendar: it says which windows the row counts in.
`tags` is a JSON array of strings.
"""

SPENT = sa.Table(
    "spent",
    METADATA,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("start_s", sa.BigInteger, primary_key=True),
    sa.Column("nusd", sa.BigInteger, nullable=False),
)

LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("gateway", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("span_start_s", sa.BigInteger, primary_key=True),
    sa.Column("span_end_s", sa.BigInteger, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
)
"""kind: `money` (nano-dollars, to be reserved in the span) or `permits` (requests at once)."""

OWNER = sa.Table(
    "accounting_owner",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("calendar_s", sa.Double, nullable=False),
)
"""The single row 1. An owner that finds a larger epoch than its own has been replaced and writes no more."""
