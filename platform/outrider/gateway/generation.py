"""One admitted request's life: its choices merged into one stream, and an account of what happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from outrider.errors import OutriderError
from outrider.gateway.admission import Admission
from outrider.gateway.choice import Choice, Piece
from outrider.gateway.money import Meter
from outrider.gateway.reply import counts_body, usage_body
from outrider.gateway.upstream import Upstream
from outrider.telemetry import RequestOutcome
from outrider.types import FinishReason, RequestSummary

__all__ = ["Generation"]


class Generation:
    """A Reply. Times are monotonic."""

    def __init__(self, admission: Admission, upstream: Upstream, meter: Meter) -> None:
        self.admission = admission
        self.reservation = meter.reservation
        self.settled = False
        self.choices = [Choice(index, admission, upstream, meter) for index in range(len(admission.requests))]

    def pieces(self) -> AsyncGenerator[Piece, None]:
        """Every choice's pieces as they come. Raises typed errors: one choice that fails ends all."""
        return self.choices[0].pieces() if len(self.choices) == 1 else self._merged()

    async def _merged(self) -> AsyncGenerator[Piece, None]:
        """A choice is asked for more once its piece was taken, so a slow reader slows all and loses nothing."""
        streams = {choice.index: choice.pieces() for choice in self.choices}
        waiting = {index: asyncio.ensure_future(anext(stream)) for index, stream in streams.items()}
        try:
            while waiting:
                await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
                for index in [index for index, task in waiting.items() if task.done()]:
                    piece = waiting.pop(index).result()
                    yield piece
                    if piece.finish is None:
                        waiting[index] = asyncio.ensure_future(anext(streams[index]))
        finally:
            for task in waiting.values():
                task.cancel()
            await asyncio.gather(*waiting.values(), return_exceptions=True)
            await asyncio.gather(*(stream.aclose() for stream in streams.values()), return_exceptions=True)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def finish_reason(self) -> str | None:
        """None until every choice has ended; `length` if any was cut off, else what ended the first."""
        reasons = [choice.finish for choice in self.choices]
        if None in reasons:
            return None
        return FinishReason.LENGTH.value if FinishReason.LENGTH in reasons else reasons[0]

    @property
    def limited_by(self) -> str | None:
        """`budget` or `max_cost_usd` when money, not the tenant's own limit, ended the answer."""
        if any(choice.unpaid for choice in self.choices):
            return "budget"
        spent = self.finish_reason == FinishReason.LENGTH and self.admission.decision.limited_by_cost
        return "max_cost_usd" if spent else None

    @property
    def cost_usd(self) -> float:
        """List price of what was processed so far; nothing before the first token."""
        if self._first_s is None:
            return 0.0
        price, prompt_tokens = self.admission.price, self.admission.prompt_tokens
        return round(price.cost_usd(prompt_tokens, self.completion_tokens, self._cached_tokens()), 12)

    def counts(self) -> dict[str, object]:
        return counts_body(self.admission.prompt_tokens, self.completion_tokens)

    def usage(self) -> dict[str, object]:
        known = self._summaries(complete=True)
        rounds = sum(each.rounds for each in known)
        if not known:
            rounds = sum(max(0, choice.chunks - 1) for choice in self.choices)
        return usage_body(self.admission, self.outcome(200), self.counts(), rounds, known=bool(known))

    def sequences(self) -> list[tuple[int, ...]]:
        return [(*choice.request.prompt_token_ids, *choice.tokens) for choice in self.choices if choice.tokens]

    def outcome(self, status: int, error: OutriderError | None = None) -> RequestOutcome:
        received_s, first_s, known = self.admission.received_s, self._first_s, self._summaries()
        return RequestOutcome(
            status=status,
            finish_reason=self.finish_reason,
            error_code=error.code if error else None,
            limited_by=self.limited_by,
            e2e_s=time.monotonic() - received_s,
            ttft_s=None if first_s is None else first_s - received_s,
            tpot_s=max((choice.tpot_s for choice in self.choices if choice.tpot_s is not None), default=None),
            queue_s=max((each.queue_s for each in known), default=None),
            prefill_s=max((each.prefill_s for each in known), default=None),
            decode_s=max((each.decode_s for each in known), default=None),
            prompt_tokens=self.admission.prompt_tokens if first_s is not None else 0,
            completion_tokens=self.completion_tokens,
            drafted_tokens=sum(each.drafted_tokens for each in known),
            admitted_tokens=sum(each.admitted_tokens for each in known),
            accepted_tokens=sum(each.accepted_tokens for each in known),
            cached_tokens=self._cached_tokens(),
            cost_usd=self.cost_usd,
            wait_s=self.admission.waited_s,
            rounds=tuple(each for summary in known for each in summary.round_records),
        )

    @property
    def _first_s(self) -> float | None:
        return min((choice.first_s for choice in self.choices if choice.first_s is not None), default=None)

    def _summaries(self, *, complete: bool = False) -> list[RequestSummary]:
        """The engine's account of the choices that have one; with `complete`, of all or none."""
        known = [choice.summary for choice in self.choices if choice.summary is not None]
        return [] if complete and len(known) < len(self.choices) else known

    def _cached_tokens(self) -> int:
        """Of each prompt what was there before this request: choices after the first find what that one left."""
        n = self.admission.ask.n
        groups = (self.choices[at : at + n] for at in range(0, len(self.choices), n))
        return sum(min(each.cached_tokens for each in group) for group in groups)
