"""One admitted request's life: token chunks in, text out, and an account of what happened."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from outrider.errors import OutriderError, TargetLost
from outrider.gateway.admission import Admission
from outrider.gateway.errors import error_from_chunk
from outrider.gateway.upstream import Upstream
from outrider.telemetry import RequestOutcome
from outrider.text import Detokenizer, StopMatcher
from outrider.types import FinishReason, RequestSummary, TokenChunk

__all__ = ["Generation", "Piece"]

Piece = tuple[str, str | None]
"""(text, finish reason); the finish reason comes with the last piece only."""


class Generation:
    """Iterate `pieces` once; the counters are true at every moment in between. Times are monotonic."""

    def __init__(self, admission: Admission, upstream: Upstream) -> None:
        self.admission = admission
        self.completion_tokens = 0
        self.finish_reason: str | None = None
        self.settled = False
        self._upstream = upstream
        self._chunks = 0
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._summary: RequestSummary | None = None

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """One piece per chunk. Raises typed errors; closing it closes the upstream, as does a stop string."""
        detokenizer = self.admission.text.detokenizer()
        stop = StopMatcher(self.admission.ask.stop)
        stream = self._upstream.stream(self.admission.request, self.admission.decision)
        try:
            async for chunk in stream:
                self._count(chunk)
                text = stop.push(self._text(chunk, detokenizer))
                if stop.matched is not None:
                    self.finish_reason = FinishReason.STOP.value
                    await stream.aclose()  # now, not after the last bytes: a slow reader must not keep the model busy
                elif chunk.finish is not None:
                    text += stop.flush()
                    self.finish_reason = _finish_reason(chunk)
                yield text, self.finish_reason
                if self.finish_reason is not None:
                    return
            raise TargetLost("the model's stream ended before the answer did")
        finally:
            await stream.aclose()

    @property
    def prompt_tokens(self) -> int:
        return len(self.admission.request.prompt_token_ids)

    @property
    def limited_by(self) -> str | None:
        """`max_cost_usd` when money, not the tenant's own limit, ended the answer."""
        spent = self.finish_reason == FinishReason.LENGTH and self.admission.decision.limited_by_cost
        return "max_cost_usd" if spent else None

    @property
    def cost_usd(self) -> float:
        """List price of what was processed so far; nothing before the first token."""
        if self._first_s is None:
            return 0.0
        return round(self.admission.price.cost_usd(self.prompt_tokens, self.completion_tokens), 12)

    def counts(self) -> dict[str, int]:
        """OpenAI's usage."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def usage(self) -> dict[str, object]:
        """OpenAI's usage and, under `outrider`, cost, speculation and timings.

        acceptance is accepted/admitted draft tokens; acceptance_length is tokens per decode round, bonus included.
        Counts of speculation are null where the gateway cut the answer before the engine could sum up.
        """
        outcome, summary = self.outcome(200), self._summary
        return {
            **self.counts(),
            "outrider": {
                "decision": self.admission.decision.decision_id,
                "cost_usd": outcome.cost_usd,
                "limited_by": outcome.limited_by,
                "seed": self.admission.ask.seed,
                "rounds": summary.rounds if summary else max(0, self._chunks - 1),
                "drafted_tokens": summary.drafted_tokens if summary else None,
                "admitted_tokens": summary.admitted_tokens if summary else None,
                "accepted_tokens": summary.accepted_tokens if summary else None,
                "acceptance": _ratio(summary.accepted_tokens, summary.admitted_tokens) if summary else None,
                "acceptance_length": _ratio(summary.accepted_tokens + summary.rounds, summary.rounds)
                if summary
                else None,
                "ttft_ms": _ms(outcome.ttft_s),
                "tpot_ms": _ms(outcome.tpot_s),
                "queue_ms": _ms(outcome.queue_s),
                "prefill_ms": _ms(outcome.prefill_s),
                "decode_ms": _ms(outcome.decode_s),
            },
        }

    def outcome(self, status: int, error: OutriderError | None = None) -> RequestOutcome:
        """What happened until now, as telemetry keeps it."""
        received_s, summary = self.admission.received_s, self._summary
        return RequestOutcome(
            status=status,
            finish_reason=self.finish_reason,
            error_code=error.code if error else None,
            limited_by=self.limited_by,
            e2e_s=time.monotonic() - received_s,
            ttft_s=None if self._first_s is None else self._first_s - received_s,
            tpot_s=self._tpot_s(),
            queue_s=summary.queue_s if summary else None,
            prefill_s=summary.prefill_s if summary else None,
            decode_s=summary.decode_s if summary else None,
            prompt_tokens=self.prompt_tokens if self._first_s is not None else 0,
            completion_tokens=self.completion_tokens,
            drafted_tokens=summary.drafted_tokens if summary else 0,
            admitted_tokens=summary.admitted_tokens if summary else 0,
            accepted_tokens=summary.accepted_tokens if summary else 0,
            cost_usd=self.cost_usd,
            rounds=summary.round_records if summary else (),
        )

    def _text(self, chunk: TokenChunk, detokenizer: Detokenizer) -> str:
        """The chunk's text, without the end token that closed the answer."""
        if chunk.text is not None:
            return chunk.text
        if chunk.finish is None:
            return detokenizer.push(chunk.tokens)
        ends = self.admission.text.eos_token_ids if chunk.finish is FinishReason.STOP else ()
        closed = bool(chunk.tokens) and chunk.tokens[-1] in ends
        return detokenizer.push(chunk.tokens[:-1] if closed else chunk.tokens) + detokenizer.flush()

    def _count(self, chunk: TokenChunk) -> None:
        """Raises the typed error of a chunk that ends in one."""
        self._summary = chunk.summary or self._summary
        if chunk.finish is FinishReason.ERROR:
            raise error_from_chunk(chunk.error)
        if chunk.finish is FinishReason.CANCELLED:
            raise TargetLost("the model was stopped while it was answering")
        if chunk.tokens:
            self._last_s = time.monotonic()
            self._first_s = self._first_s or self._last_s
            self.completion_tokens += len(chunk.tokens)
            self._chunks += 1

    def _tpot_s(self) -> float | None:
        """(last token − first token)/(tokens − 1)."""
        if self._first_s is None or self._last_s is None or self.completion_tokens < 2:
            return None
        return (self._last_s - self._first_s) / (self.completion_tokens - 1)


def _finish_reason(chunk: TokenChunk) -> str:
    return FinishReason.LENGTH.value if chunk.finish is FinishReason.LENGTH else FinishReason.STOP.value


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
