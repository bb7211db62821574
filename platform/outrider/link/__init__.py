"""The channel between a target and its drafter: messages, an in-process link and a ZeroMQ link.

The ZeroMQ side loads on first use, so that the in-process link needs no more than torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from outrider.link.checks import check_block, check_round
from outrider.link.inprocess import InProcessLink
from outrider.link.messages import (
    DraftBlock,
    DrafterWelcome,
    DraftHandler,
    DraftLink,
    DraftRound,
    TargetHello,
)

if TYPE_CHECKING:
    from outrider.link.curve import CurveKeys
    from outrider.link.zmq import ZmqDraftLink, ZmqDraftService

__all__ = [
    "CurveKeys",
    "DraftBlock",
    "DraftHandler",
    "DraftLink",
    "DraftRound",
    "DrafterWelcome",
    "InProcessLink",
    "TargetHello",
    "ZmqDraftLink",
    "ZmqDraftService",
    "check_block",
    "check_round",
]


def __getattr__(name: str) -> object:
    if name == "CurveKeys":
        return import_module("outrider.link.curve").CurveKeys
    if name in ("ZmqDraftLink", "ZmqDraftService"):
        return getattr(import_module("outrider.link.zmq"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
