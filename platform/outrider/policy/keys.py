"""API keys: made here, shown once, stored only as SHA-256."""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["DEMO_KEY", "DEMO_OPERATOR_KEY", "KEY_PREFIX", "hash_key", "new_key"]

KEY_PREFIX = "sk-outrider-"

DEMO_KEY = "sk-outrider-demo-local-only"
"""Well known and worth nothing: the key of the demo tenant in `policies/default.yaml`, for 127.0.0.1 only."""

DEMO_OPERATOR_KEY = "sk-outrider-operator-local-only"
"""As the demo key, for the operator of `policies/default.yaml`: whoever reads this may change the policy there."""

_RANDOM_BYTES = 32


def new_key() -> str:
    """A fresh key with 256 bits of randomness. Whoever receives it is the only one to hold it."""
    return KEY_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_key(raw_key: str) -> str:
    """SHA-256 of a key in lower-case hex: what a policy stores. Takes any text, unpaired surrogates too.

    Keys carry 256 random bits, so a plain hash needs neither salt nor stretching.
    """
    return hashlib.sha256(raw_key.encode("utf-8", "backslashreplace")).hexdigest()
