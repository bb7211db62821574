"""What an operator sets of a gateway."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

__all__ = ["GatewaySettings"]


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Limits and facts of one gateway.

    default_max_tokens: output limit of a request that names none, less where context or money leave less.
    max_choices: most answers one request may ask for, n for each of its prompts. max_body_bytes: largest request body
    read. snapshot_fresh_s: age up to which a load proves a model healthy.
    recent_decisions: how many decisions `/v1/outrider/decisions/ID` remembers.
    facts: what the deployment knows that changes answers (weights, dtype, kernels); hashed into the fingerprint.
    """

    default_max_tokens: int = 256
    max_choices: int = 16
    max_body_bytes: int = 8 * 2**20
    snapshot_fresh_s: float = 3.0
    recent_decisions: int = 1024
    access_log: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)

    def system_fingerprint(self, model: str, text_fingerprint: str) -> str:
        """Changes when something other than load or policy changes a model's answers."""
        facts = msgspec.json.encode([model, text_fingerprint, sorted(self.facts.items())])
        return f"fp_{hashlib.sha256(facts).hexdigest()[:12]}"
