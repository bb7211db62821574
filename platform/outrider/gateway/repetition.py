"""An answer given again: the pieces of a kept one, at the price of a hit."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from outrider.accounting import Reservation
from outrider.errors import OutriderError
from outrider.gateway.admission import Admission
from outrider.gateway.answers import Kept
from outrider.gateway.choice import Piece
from outrider.gateway.reply import counts_body, usage_body
from outrider.policy import Policy
from outrider.telemetry import RequestOutcome
from outrider.types import Decision

__all__ = ["Repetition", "decided_before", "hit_usd"]


def hit_usd(kept: Kept, policy: Policy) -> float:
    """What giving it again costs: a share of today's list price."""
    price = policy.models[kept.decision.model]
    return round(price.cost_usd(kept.prompt_tokens, kept.completion_tokens) * policy.cache.price_share, 12)


def decided_before(kept: Kept, decision_id: str, policy: Policy, cost_usd: float) -> Decision:
    """The decision that led to the answer, as that of a request which nothing was predicted for."""
    return replace(
        kept.decision,
        decision_id=decision_id,
        policy_version=policy.version,
        predicted_ttft_s=0.0,
        predicted_tpot_s=0.0,
        predicted_e2e_s=0.0,
        quantile_ttft_s=0.0,
        quantile_tpot_s=0.0,
        quantile_e2e_s=0.0,
        predicted_cost_usd=cost_usd,
        reserve_usd=cost_usd,
        propensity=1.0,
        explored=False,
        stale=False,
        basis=None,
        reasons=("the answer was kept from an equal request",),
    )


class Repetition:
    """A Reply."""

    def __init__(self, admission: Admission, kept: Kept, cost_usd: float, reservation: Reservation) -> None:
        self.admission = admission
        self.reservation = reservation
        self.settled = False
        self._kept = kept
        self._cost_usd = cost_usd
        self._given_s: float | None = None

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Each choice in one piece."""
        self._given_s = time.monotonic()
        for piece in self._kept.pieces:
            yield piece

    def counts(self) -> dict[str, object]:
        return counts_body(self._kept.prompt_tokens, self._kept.completion_tokens)

    def usage(self) -> dict[str, object]:
        return usage_body(self.admission, self.outcome(200), self.counts(), 0, known=False)

    def sequences(self) -> tuple[()]:
        return ()

    def outcome(self, status: int, error: OutriderError | None = None) -> RequestOutcome:
        received_s, given = self.admission.received_s, self._given_s is not None
        reasons = [piece.finish for piece in self._kept.pieces]
        return RequestOutcome(
            status=status,
            finish_reason="length" if "length" in reasons else reasons[0],
            error_code=error.code if error else None,
            e2e_s=time.monotonic() - received_s,
            ttft_s=None if self._given_s is None else self._given_s - received_s,
            prompt_tokens=self._kept.prompt_tokens if given else 0,
            completion_tokens=self._kept.completion_tokens if given else 0,
            cost_usd=self._cost_usd if given else 0.0,
            cache_hit=True,
        )
