"""The colocated link: the drafter runs in the target's process, on the thread that receives."""

from __future__ import annotations

import secrets

from outrider.errors import LinkError
from outrider.link.messages import DraftBlock, DraftHandler, DraftRound, TargetHello

__all__ = ["InProcessLink"]


class InProcessLink:
    """`send` keeps the round, `receive` computes its block; nothing is copied, serialised or checked as on the wire.

    Raises `DrafterMismatch` at construction when the drafter was not made for the target. `handler` and `client` are
    for a target that can reach the drafter's memory, on a device that both share.
    """

    def __init__(self, server: DraftHandler, hello: TargetHello) -> None:
        self.welcome = server.hello(hello)
        self.handler = server
        self.client = secrets.token_bytes(8)
        self._sent: DraftRound | None = None
        self._alive = True

    def send(self, message: DraftRound) -> None:
        """Keep a round; raises `LinkError` when the last one was not received or the link is dead."""
        if not self._alive:
            raise LinkError("the draft link is closed")
        if self._sent is not None:
            raise LinkError("a round was sent before the block of the last one was received")
        self._sent = message

    def receive(self, timeout_s: float) -> DraftBlock:
        """Compute the block of the round sent last; raises `LinkError`, after which the link is dead.

        No timeout can pass: the caller's thread does the work.
        """
        sent, self._sent = self._sent, None
        if not self._alive or sent is None:
            raise LinkError("nothing was sent on the draft link, or it is closed")
        try:
            block = self.handler.handle(self.client, sent, trusted=True)
            if (block.epoch, block.round) != (sent.epoch, sent.round):
                raise LinkError("the drafter answered another round or epoch")
        except LinkError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise LinkError(f"the drafter failed on a round ({type(error).__name__})") from error
        return block

    def close(self) -> None:
        """Free what the drafter holds for this target. Idempotent."""
        if self._alive:
            self._alive = False
            self.handler.forget_client(self.client)
