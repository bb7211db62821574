"""Composition root without Ray: a target and its drafter in one process or two."""

from outrider.local.engine import Completion, LinkKind, LocalEngine, open_engine

__all__ = ["Completion", "LinkKind", "LocalEngine", "open_engine"]
