"""Pieces of a choice in the endpoints' shapes: tool calls with their ids, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from outrider.gateway.admission import Admission
from outrider.gateway.choice import Piece
from outrider.gateway.logprobs import Placed, chat_logprobs, completion_logprobs
from outrider.gateway.wire import WrittenChoice
from outrider.text import CallDelta

__all__ = ["Shapes"]


class Shapes:
    """Of one request; knows which endpoint it came by."""

    def __init__(self, admission: Admission) -> None:
        form = admission.text.tool_format if admission.ask.tools else None
        self._new_id: Callable[[], str] = form.new_id if form else str
        write = chat_logprobs if admission.ask.endpoint == "chat" else completion_logprobs
        most = admission.ask.sampling.logprobs or 0
        self._write: Callable[[list[Placed]], dict[str, Any]] = partial(write, admission.text, most=most)

    def calls(self, deltas: Sequence[CallDelta]) -> list[dict[str, Any]]:
        """OpenAI's deltas, one for each call that gained something."""
        told: dict[int, dict[str, Any]] = {}
        for delta in deltas:
            if delta.name is not None:
                function = {"name": delta.name, "arguments": ""}
                told[delta.index] = {
                    "index": delta.index,
                    "id": self._new_id(),
                    "type": "function",
                    "function": function,
                }
            call = told.setdefault(delta.index, {"index": delta.index, "function": {"arguments": ""}})
            call["function"]["arguments"] += delta.arguments
        return list(told.values())

    def logprobs(self, piece: Piece) -> dict[str, Any] | None:
        """Of a stream's chunk; None where they were not asked for."""
        return None if piece.logprobs is None else self._write(piece.logprobs)

    def whole(self, pieces: Sequence[Piece]) -> WrittenChoice:
        """A choice from all its pieces."""
        deltas = [delta for piece in pieces for delta in piece.calls]
        calls = [{name: field for name, field in call.items() if name != "index"} for call in self.calls(deltas)]
        asked = pieces[0].logprobs is not None
        places = [place for piece in pieces for place in piece.logprobs or ()]
        return WrittenChoice(
            text="".join(piece.text for piece in pieces),
            reason=pieces[-1].finish or "",
            logprobs=self._write(places) if asked else None,
            calls=calls,
        )
