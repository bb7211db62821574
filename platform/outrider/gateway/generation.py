"""One admitted request's life: its choices merged into one stream, and an account of what happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from outrider.errors import OutriderError
from outrider.gateway.admission import Admission
from outrider.gateway.choice import Choice, Piece
from outrider.gateway.upstream import Upstream
from outrider.telemetry import RequestOutcome
from outrider.types import FinishReason, RequestSummary

__all__ = ["Generation"]


class Generation:
    """Iterate `pieces` once; the account is true at every moment in between. Times are monotonic."""

    def __init__(self, admission: Admission, upstream: Upstream) -> None:
        self.admission = admission
        self.settled = False
        self.choices = [Choice(index, admission, upstream) for index in range(len(admission.requests))]

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
    def prompt_tokens(self) -> int:
        """Each prompt counts once, however many choices answer it."""
        return sum(len(choice.request.prompt_token_ids) for choice in self.choices[:: self.admission.ask.n])

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
        """`max_cost_usd` when money, not the tenant's own limit, ended the answer."""
        spent = self.finish_reason == FinishReason.LENGTH and self.admission.decision.limited_by_cost
        return "max_cost_usd" if spent else None

    @property
    def cost_usd(self) -> float:
        """List price of what was processed so far; nothing before the first token."""
        if self._first_s is None:
            return 0.0
        return round(self.admission.price.cost_usd(self.prompt_tokens, self.completion_tokens), 12)

    def counts(self) -> dict[str, object]:
        """OpenAI's usage, of all choices together."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def usage(self) -> dict[str, object]:
        """OpenAI's usage and, under `outrider`, cost, speculation and timings.

        acceptance is accepted/admitted draft tokens; acceptance_length is tokens per decode round, bonus included.
        Counts of speculation are null where the gateway cut the answer before the engine could sum up; so is the seed
        where it would not repeat the answer.
        """
        outcome, admission, known = self.outcome(200), self.admission, self._summaries(complete=True)
        rounds = sum(each.rounds for each in known)
        return {
            **self.counts(),
            "prompt_tokens_details": {"cached_tokens": outcome.cached_tokens},
            "outrider": {
                "decision": admission.decision.decision_id,
                "cost_usd": outcome.cost_usd,
                "limited_by": outcome.limited_by,
                "seed": admission.ask.sampling.seed if admission.decision.lossless == "coupled" else None,
                "rounds": rounds if known else sum(max(0, choice.chunks - 1) for choice in self.choices),
                "drafted_tokens": outcome.drafted_tokens if known else None,
                "admitted_tokens": outcome.admitted_tokens if known else None,
                "accepted_tokens": outcome.accepted_tokens if known else None,
                "acceptance": _ratio(outcome.accepted_tokens, outcome.admitted_tokens) if known else None,
                "acceptance_length": _ratio(outcome.accepted_tokens + rounds, rounds) if known else None,
                "ttft_ms": _ms(outcome.ttft_s),
                "tpot_ms": _ms(outcome.tpot_s),
                "queue_ms": _ms(outcome.queue_s),
                "prefill_ms": _ms(outcome.prefill_s),
                "decode_ms": _ms(outcome.decode_s),
            },
        }

    def outcome(self, status: int, error: OutriderError | None = None) -> RequestOutcome:
        """What happened until now, as telemetry keeps it: counts of all choices, times of the slowest."""
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
            prompt_tokens=self.prompt_tokens if first_s is not None else 0,
            completion_tokens=self.completion_tokens,
            drafted_tokens=sum(each.drafted_tokens for each in known),
            admitted_tokens=sum(each.admitted_tokens for each in known),
            accepted_tokens=sum(each.accepted_tokens for each in known),
            cached_tokens=self._cached_tokens(),
            cost_usd=self.cost_usd,
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
        return sum(min((each.summary.cached_tokens if each.summary else 0) for each in group) for group in groups)


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
