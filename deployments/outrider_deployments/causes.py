"""What a replica raised, as its caller gets it."""

from __future__ import annotations

from outrider.errors import OutriderError

__all__ = ["raised_there"]


def raised_there(error: OutriderError) -> OutriderError:
    """Ray raises an instance of both its own error and the replica's, which it keeps as `cause`."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, OutriderError) else error
