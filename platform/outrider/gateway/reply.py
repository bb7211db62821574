"""What the HTTP side sees of an answer, be it generated now or kept from before; and its account in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from outrider.accounting import Reservation
from outrider.errors import OutriderError
from outrider.gateway.admission import Admission
from outrider.gateway.choice import Piece
from outrider.telemetry import RequestOutcome

__all__ = ["Reply", "counts_body", "usage_body"]


class Reply(Protocol):
    """One request's answer. Iterate `pieces` once; the account is true at every moment in between."""

    settled: bool
    """Whether it has been accounted for."""

    @property
    def admission(self) -> Admission: ...

    @property
    def reservation(self) -> Reservation: ...

    def pieces(self) -> AsyncGenerator[Piece, None]:
        """Every choice's pieces as they come. Raises typed errors: one choice that fails ends all."""
        ...

    def counts(self) -> dict[str, object]:
        """OpenAI's usage, of all choices together."""
        ...

    def usage(self) -> dict[str, object]:
        """See `usage_body`."""
        ...

    def sequences(self) -> Sequence[Sequence[int]]:
        """Tokens of each choice, its prompt and what came of its answer; none where no replica has them."""
        ...

    def outcome(self, status: int, error: OutriderError | None = None) -> RequestOutcome:
        """What happened until now, as telemetry keeps it: counts of all choices, times of the slowest."""
        ...


def counts_body(prompt_tokens: int, completion_tokens: int) -> dict[str, object]:
    """OpenAI's three counts."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def usage_body(
    admission: Admission, outcome: RequestOutcome, counts: dict[str, object], rounds: int, *, known: bool
) -> dict[str, object]:
    """OpenAI's usage and, under `outrider`, cost, speculation and timings.

    acceptance is accepted/admitted draft tokens; acceptance_length is tokens per decode round, bonus included.
    Counts of speculation are null unless `known`: where the gateway cut the answer before the engine could sum up, or
    had kept it. So is the seed where it would not repeat the answer.
    """
    decision = admission.decision
    return {
        **counts,
        "prompt_tokens_details": {"cached_tokens": outcome.cached_tokens},
        "outrider": {
            "decision": decision.decision_id,
            "class": decision.answer_class,
            "tier": admission.tenant.tier.name,
            "cost_usd": outcome.cost_usd,
            "cache_hit": outcome.cache_hit,
            "limited_by": outcome.limited_by,
            "seed": admission.ask.sampling.seed if decision.lossless == "coupled" else None,
            "rounds": rounds,
            "drafted_tokens": outcome.drafted_tokens if known else None,
            "admitted_tokens": outcome.admitted_tokens if known else None,
            "accepted_tokens": outcome.accepted_tokens if known else None,
            "acceptance": _ratio(outcome.accepted_tokens, outcome.admitted_tokens) if known else None,
            "acceptance_length": _ratio(outcome.accepted_tokens + rounds, rounds) if known else None,
            "ttft_ms": _ms(outcome.ttft_s),
            "tpot_ms": _ms(outcome.tpot_s),
            "wait_ms": _ms(outcome.wait_s),
            "queue_ms": _ms(outcome.queue_s),
            "prefill_ms": _ms(outcome.prefill_s),
            "decode_ms": _ms(outcome.decode_s),
        },
    }


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
