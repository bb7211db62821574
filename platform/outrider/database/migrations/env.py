"""What Alembic runs for each upgrade: on the connection, and in the transaction, that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from outrider.database.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
