"""The one database of ledger and policy versions: SQLite in WAL mode, or PostgreSQL by URL.

Tables live in `tables/`, one module per owner, all in one METADATA. Whoever adds or changes one adds the next numbered
file to `migrations/versions/`; a test compares what the migrations build with METADATA on both databases.
"""

from __future__ import annotations

from outrider.database.engine import DEFAULT_URL, Database, open_database
from outrider.database.tables import METADATA

__all__ = ["DEFAULT_URL", "METADATA", "Database", "open_database"]
