"""One choice of an answer: token chunks in, pieces for the tenant out, and a count of what came."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from outrider.errors import TargetLost
from outrider.gateway.admission import Admission
from outrider.gateway.errors import error_from_chunk
from outrider.gateway.logprobs import LogprobTrack, Placed, prompt_places
from outrider.gateway.money import Meter
from outrider.gateway.upstream import Upstream
from outrider.text import CallDelta, CallParser, StopMatcher
from outrider.types import FinishReason, RequestSummary, TokenChunk

__all__ = ["TOOL_CALLS", "Choice", "Piece"]

TOOL_CALLS = "tool_calls"


@dataclass(slots=True)
class Piece:
    """What one round gave a choice; `finish` comes with the last piece only."""

    index: int
    text: str
    finish: str | None = None
    calls: tuple[CallDelta, ...] = ()
    logprobs: list[Placed] | None = None


class Choice:
    """Iterate `pieces` once; the counters are true at every moment in between. Times are monotonic."""

    def __init__(self, index: int, admission: Admission, upstream: Upstream, meter: Meter) -> None:
        self.index = index
        self.request = admission.requests[index]
        self.tokens: list[int] = []
        self.chunks = 0
        self.finish: str | None = None
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.summary: RequestSummary | None = None
        self.cached_tokens = 0
        self.unpaid = False
        """Whether money ran out: it ended with the last token that was paid."""
        self._meter = meter
        self._admission = admission
        self._upstream = upstream
        self._ends = frozenset((*admission.text.eos_token_ids, *self.request.sampling.stop_token_ids))
        self._stop = StopMatcher(admission.ask.stop)
        self._parser, marks = _call_parser(admission)
        tools = admission.ask.tools
        self._one_call = tools is not None and not tools.parallel and not tools.forced
        self._detokenizer = admission.text.detokenizer(marks)
        self._echo = _echo(admission, index) if admission.ask.echo else None
        self._track = None
        if self.request.sampling.logprobs is not None:
            self._track = LogprobTrack(self._detokenizer, offset=len(self._echo or ""))
        self._released = 0

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """One piece per chunk. Raises typed errors; closing it closes the upstream, as does a stop string."""
        stream = self._upstream.stream(self.request, self._admission.decision)
        try:
            async for given in stream:
                chunk = await self._paid(given)
                self._count(chunk)
                piece = self._piece(chunk)
                if piece.finish is not None and given.finish is None:
                    await stream.aclose()  # now, not after the last bytes: a slow reader must not keep the model busy
                yield piece
                if piece.finish is not None:
                    return
            raise TargetLost("the model's stream ended before the answer did")
        finally:
            await stream.aclose()

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens)

    @property
    def tpot_s(self) -> float | None:
        """(last token − first token)/(tokens − 1)."""
        if self.first_s is None or self.last_s is None or self.completion_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.completion_tokens - 1)

    async def _paid(self, chunk: TokenChunk) -> TokenChunk:
        """The chunk as far as it is paid for; one that is cut ends the answer. Text that came ready cannot be cut."""
        asked = len(chunk.tokens)
        paid = await self._meter.pay(asked) if asked and chunk.finish is not FinishReason.ERROR else asked
        if paid == asked:
            return chunk
        self.unpaid = True
        text = None if chunk.text is None else ""
        return replace(
            chunk, tokens=chunk.tokens[:paid], text=text, logprobs=chunk.logprobs[:paid], finish=FinishReason.LENGTH
        )

    def _piece(self, chunk: TokenChunk) -> Piece:
        text = self._stop.push(self._text(chunk))
        if self._stop.matched is not None:
            self.finish = FinishReason.STOP.value
        elif chunk.finish is not None:
            text += self._stop.flush()
            self.finish = _finish_reason(chunk)
        piece = Piece(self.index, text)
        if self._track is not None:
            self._released += len(text)
            piece.logprobs = self._track.released(self._released)
        if self._echo is not None:
            piece, self._echo = self._echoing(self._echo, piece, chunk), None
        if self._parser is not None:
            self._read_calls(self._parser, piece)
        piece.finish = self.finish
        return piece

    def _text(self, chunk: TokenChunk) -> str:
        """The chunk's text, without the end token that closed the answer."""
        if chunk.text is not None:
            return chunk.text
        tokens = chunk.tokens
        if chunk.finish is FinishReason.STOP and tokens and tokens[-1] in self._ends:
            tokens = tokens[:-1]
        if self._track is not None:
            text, held = self._track.push(tokens, chunk.logprobs), self._track.flush
        else:
            text, held = self._detokenizer.push(tokens), self._detokenizer.flush
        return text if chunk.finish is None else text + held()

    def _read_calls(self, parser: CallParser, piece: Piece) -> None:
        """Take the calls out of the text. Where one is all there may be, it ends the answer."""
        parts = parser.push(piece.text)
        if self.finish is not None:
            parts += parser.flush()
        if self._one_call and parser.calls:
            parts = parts[: 1 + next(at for at, part in enumerate(parts) if isinstance(part, CallDelta))]
            self.finish = TOOL_CALLS
        elif self.finish == FinishReason.STOP and parser.found:
            self.finish = TOOL_CALLS
        piece.text = "".join(part for part in parts if isinstance(part, str))
        piece.calls = tuple(part for part in parts if isinstance(part, CallDelta))

    def _echoing(self, echo: str, piece: Piece, chunk: TokenChunk) -> Piece:
        """The first piece with the prompt before it, and the prompt's log-probabilities before its own."""
        if piece.logprobs is not None:
            prompt = prompt_places(self._admission.text, self.request.prompt_token_ids, chunk.prompt_logprobs)
            piece.logprobs = prompt + piece.logprobs
        piece.text = echo + piece.text
        return piece

    def _count(self, chunk: TokenChunk) -> None:
        """Raises the typed error of a chunk that ends in one."""
        self.summary = chunk.summary or self.summary
        cached = chunk.summary.cached_tokens if chunk.summary else chunk.cached_tokens
        self.cached_tokens = max(self.cached_tokens, cached)
        if chunk.finish is FinishReason.ERROR:
            raise error_from_chunk(chunk.error)
        if chunk.finish is FinishReason.CANCELLED:
            raise TargetLost("the model was stopped while it was answering")
        if chunk.tokens:
            self.last_s = time.monotonic()
            self.first_s = self.first_s or self.last_s
            self.tokens += chunk.tokens
            self.chunks += 1


def _finish_reason(chunk: TokenChunk) -> str:
    return FinishReason.LENGTH.value if chunk.finish is FinishReason.LENGTH else FinishReason.STOP.value


def _call_parser(admission: Admission) -> tuple[CallParser | None, tuple[str, ...]]:
    """What reads calls out of the text, and the special tokens it needs to see there."""
    tools = admission.ask.tools
    form = admission.text.tool_format if tools else None
    if tools is None or form is None:
        return None, ()
    names = [function["name"] for function in tools.functions]
    return CallParser(form, names, forced=bool(tools.forced)), form.marks


def _echo(admission: Admission, index: int) -> str:
    prompt = admission.prompt_of(index)
    return prompt if isinstance(prompt, str) else admission.text.decode(admission.requests[index].prompt_token_ids)
