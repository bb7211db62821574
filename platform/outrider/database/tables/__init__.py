"""All tables in one METADATA: the ledger's are in `ledger`; every other owner adds a module and a line below."""

from __future__ import annotations

from outrider.database.tables.base import METADATA
from outrider.database.tables.ledger import LEASES, LEDGER, OWNER, SPENT
from outrider.database.tables.policies import POLICY_AUDIT, POLICY_VERSIONS
from outrider.database.tables.workflows import WORKFLOW_OUTCOMES

__all__ = ["LEASES", "LEDGER", "METADATA", "OWNER", "POLICY_AUDIT", "POLICY_VERSIONS", "SPENT", "WORKFLOW_OUTCOMES"]
